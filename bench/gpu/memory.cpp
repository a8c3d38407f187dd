#include "bench/gpu/measure.h"

namespace tessera::bench {

void measure_memory(const Place& place) {
  const int64_t tokens = place.small ? 256 : 16384, dim = place.small ? 256 : 7168, experts = place.small ? 8 : 256, choices = place.small ? 2 : 8;
  const auto& device = place.accelerator();
  const at::Tensor x = place.random({tokens, dim}), gates = place.random({tokens, 2 * dim}), w = place.random({dim}), to = at::empty_like(x);
  const double bytes = static_cast<double>(x.nbytes());
  const double copy = 2 * bytes / seconds_of(place, [&] { at::Tensor(to).copy_(x); });
  std::printf("\n### Memory-bound kernels, %ld tokens of %ld numbers in bfloat16; a copy moves %.0f GB/s\n\n", static_cast<long>(tokens), static_cast<long>(dim),
              copy * 1e-9);
  row({"kernel", "GB/s", "of the copy"});
  row({"---", "---", "---"});
  const auto report = [&](const char* name, double moved, const std::function<void()>& call) {
    const double rate = moved / seconds_of(place, call);
    row({name, number(rate * 1e-9, 0), number(100 * rate / copy, 0) + " %"});
  };
  at::Tensor rstd;
  const at::Tensor dw = at::zeros({dim}, x.options().dtype(at::kFloat));
  report("RMSNorm", 2 * bytes, [&] { (void)device.rms_norm(x, w, 1e-6f, &rstd); });
  report("RMSNorm, backward", 3 * bytes, [&] { (void)device.rms_norm_backward(x, x, w, rstd, dw); });
  report("SwiGLU", 3 * bytes, [&] { (void)device.swiglu(gates); });
  report("SwiGLU, backward", 5 * bytes, [&] { (void)device.swiglu_backward(x, gates); });
  const double codes = bytes / 2 * (1 + 4.0 / 128);
  const kernels::fp8::Scheme by_row{kernels::fp8::Format::kE4m3, {1, 128}}, by_token{kernels::fp8::Format::kE4m3, {128, 1}};
  report("quantise 1 x 128", bytes + codes, [&] { (void)device.quantize(x, by_row, false); });
  report("quantise 128 x 1, transposed", bytes + codes, [&] { (void)device.quantize(x, by_token, true); });
  report("RMSNorm + quantise", bytes + codes, [&] { (void)device.quantize_norm(x, w, 1e-6f, by_row, &rstd); });
  kernels::Accelerator::QuantizedSwiglu quantized;
  report("SwiGLU + quantise it, gates and ups", 2 * bytes + 3 * codes, [&] { quantized = device.quantize_swiglu(gates, by_row); });
  report("SwiGLU of codes", 2 * codes + bytes, [&] { (void)device.swiglu_of_codes(quantized.gate_up, by_row, at::kBFloat16); });
  report("SwiGLU of codes, backward", 2 * codes + 3 * bytes, [&] { (void)device.swiglu_backward_of_codes(x, quantized.gate_up, by_row); });
  const at::Tensor scores = at::rand({tokens, experts}, x.options().dtype(at::kFloat));
  const kernels::ExpertChoice rules{experts, choices, place.small ? 2 : 8, place.small ? 1 : 4};
  at::Tensor chosen;
  report("router: the best experts", static_cast<double>(scores.nbytes()), [&] { chosen = device.choose_experts(scores, {}, rules); });
  kernels::RowGroups groups;
  kernels::RowMapPtr map;
  report("router: sorting rows", 4.0 * static_cast<double>(chosen.nbytes()), [&] { map = device.sort_by_expert(chosen, experts, groups); });
  at::Tensor rows;
  const double gathered = bytes * static_cast<double>(choices);
  report("gather rows", 2 * gathered, [&] { rows = device.gather_rows(x, *map); });
  // As experts take tokens: each is quantised once, and its codes are read and written for each of its rows.
  report("quantise + gather rows", bytes + codes + 2 * codes * static_cast<double>(choices), [&] {
    const auto q = device.quantize(x, by_row, false);
    (void)device.gather_rows(q.codes, *map);
    (void)device.gather_rows(q.scales, *map);
  });
  const at::Tensor weights = at::rand({tokens, choices}, x.options().dtype(at::kFloat));
  report("combine rows", gathered + 2 * bytes, [&] { device.add_sums(rows, *map, weights, to); });
  const int64_t vocabulary = place.small ? 512 : 129280, targets = place.small ? 64 : 2048;
  const at::Tensor logits = place.random({targets, vocabulary}), ids = at::randint(0, vocabulary, {targets}, logits.options().dtype(at::kInt));
  const at::Tensor factors = at::full({targets}, 1e-3, dw.options()), log_probs = at::empty({targets}, dw.options());
  report("cross-entropy with gradient", 2 * static_cast<double>(logits.nbytes()), [&] { device.cross_entropy(logits, ids, factors, true, log_probs); });
  const int64_t count = place.small ? 4096 : int64_t{1} << 28;
  const at::Tensor weight = at::zeros({count}, dw.options()), gradient = at::ones({count}, dw.options());
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const kernels::Moments moments{at::zeros({count}, weight.options().dtype(type)), at::zeros({count}, weight.options().dtype(type)), {}};
    const double moved = static_cast<double>(count) * (3 * 4 + 4 * static_cast<double>(at::elementSize(type)));
    report(type == at::kFloat ? "AdamW, float32 moments" : "AdamW, bfloat16 moments", moved,
           [&] { device.adamw({{weight, gradient, moments, 0.1}}, {.lr = 1e-3}); });
  }
  report("sum of squares", static_cast<double>(gradient.nbytes()), [&] { (void)device.sum_of_squares({gradient}); });
}

}  // namespace tessera::bench
