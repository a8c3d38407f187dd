#include "kernels/cuda/kernel_accelerator.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/fused_quantize.h"
#include "kernels/cuda/losses.h"
#include "kernels/cuda/optimizer.h"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/rows.h"

namespace tessera::kernels::cuda {

namespace {

bool known(const at::Tensor& x) { return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16; }
bool narrow(const at::Tensor& x) { return x.scalar_type() == at::kBFloat16; }

/// x as a kernel beside `like` takes it.
at::Tensor dense(const at::Tensor& x, const at::Tensor& like) { return x.to(like.scalar_type()).contiguous(); }
at::Tensor dense_ids(const at::Tensor& ids) { return ids.to(at::kInt).contiguous(); }

template <typename T>
const T* in(const at::Tensor& x) {
  return x.const_data_ptr<T>();
}
template <typename T>
T* out(const at::Tensor& x) {
  return x.data_ptr<T>();
}

Where where(const at::Tensor& x, void* stream) {
  TESSERA_CHECK(known(x), "a kernel over ", x.scalar_type());
  return {narrow(x), stream};
}

/// The rows of a matrix, or its heads of `dim` numbers.
Vectors rows_of(const at::Tensor& x) { return {x.data_ptr(), 1, x.size(1)}; }
Vectors heads_of(const at::Tensor& x, int64_t dim) { return {x.data_ptr(), x.size(1) / dim, x.stride(0)}; }

Logits logits_of(const at::Tensor& logits, const at::Tensor& ids) {
  TESSERA_CHECK(logits.is_contiguous() && ids.is_contiguous() && ids.scalar_type() == at::kInt, "logits ", logits.sizes(), " with ids ", ids.scalar_type());
  return {logits.data_ptr(), logits.size(0), logits.size(1), in<int32_t>(ids)};
}

bool e4m3(const fp8::Scheme& scheme) { return scheme.format == fp8::Format::kE4m3; }
constexpr fp8::Tile kByRow{1, 128}, kByToken{128, 1}, kBlocks{128, 128};
bool by_row(const fp8::Scheme& scheme) { return e4m3(scheme) && scheme.tile == kByRow; }
int64_t tiles_of(int64_t length) { return (length + 127) / 128; }

/// Where codes [lines, length] and scales [scale_lines, scale_length] of x go.
std::pair<Quantize, fp8::Quantized> quantize_job(const at::Tensor& x, const fp8::Scheme& scheme, at::IntArrayRef codes, at::IntArrayRef scales, void* stream) {
  fp8::Quantized q{at::empty(codes, x.options().dtype(at::kFloat8_e4m3fn)), at::empty(scales, x.options().dtype(at::kFloat))};
  const Quantize job{.x = x.const_data_ptr(), .bfloat16 = narrow(x), .rows = x.size(0), .columns = x.size(1), .codes = static_cast<uint8_t*>(q.codes.data_ptr()),
                     .scales = out<float>(q.scales), .power_of_two_scales = scheme.power_of_two_scales, .stream = stream};
  return {job, std::move(q)};
}

GateUp gate_up_job(const fp8::Quantized& rows, at::ScalarType type, void* stream) {
  TESSERA_CHECK(rows.codes.is_contiguous() && rows.scales.is_contiguous(), "codes ", rows.codes.strides());
  return {.from = {static_cast<uint8_t*>(rows.codes.data_ptr()), out<float>(rows.scales)}, .rows = rows.codes.size(0) / 2, .width = rows.codes.size(1),
          .bfloat16 = type == at::kBFloat16, .stream = stream};
}

/// Where each expert's padded rows begin, as quantize.h pads them.
at::Tensor padded_offsets(const at::Tensor& offsets) {
  const at::Tensor tiles = offsets.diff().add(127).floor_divide(128).clamp_min(1);
  return at::cat({at::zeros({1}, offsets.options()), tiles.mul(128).cumsum(0).to(at::kInt)});
}

fp8::Quantized quantize_expert_tokens(const at::Tensor& matrix, const fp8::Scheme& scheme, const RowGroups& groups, void* stream) {
  const at::Tensor x = matrix.contiguous();
  const ExpertRows experts{in<int32_t>(groups.device_offsets), static_cast<int32_t>(groups.experts()), padded_rows(x.size(0), groups.experts())};
  auto [job, q] = quantize_job(x, scheme, {x.size(1), experts.padded}, {experts.padded / 128, x.size(1)}, stream);
  quantize_tokens(job, experts);
  return q;
}

}  // namespace

at::Tensor KernelAccelerator::rms_norm(const at::Tensor& x, const at::Tensor& w, float eps, at::Tensor* rstd) const {
  const at::Tensor from = x.contiguous(), weight = dense(w, x);
  at::Tensor y = at::empty_like(from), scales = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  cuda::rms_norm(where(x, stream()), rows_of(from), weight.const_data_ptr(), eps, x.size(0), x.size(1), rows_of(y), out<float>(scales));
  if (rstd != nullptr) *rstd = scales;
  return y;
}

at::Tensor KernelAccelerator::rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, const at::Tensor& rstd,
                                                const at::Tensor& dw) const {
  const at::Tensor from = x.contiguous(), weight = dense(w, x), d = dense(dy, x);
  at::Tensor dx = at::empty_like(from), partial;
  if (dw.defined()) partial = at::empty({norm_parts(x.size(0)), x.size(1)}, rstd.options());
  cuda::rms_norm_backward(where(x, stream()), rows_of(d), rows_of(from), weight.const_data_ptr(), in<float>(rstd), x.size(0), x.size(1), rows_of(dx),
                          dw.defined() ? out<float>(partial) : nullptr);
  if (dw.defined()) at::Tensor(dw).add_(partial.sum(0));
  return dx;
}

void KernelAccelerator::norm_heads(const at::Tensor& x, const at::Tensor& w, float eps) const {
  const int64_t dim = w.numel(), count = x.numel() / dim;
  const at::Tensor rstd = at::empty({count}, x.options().dtype(at::kFloat)), weight = dense(w, x);
  cuda::rms_norm(where(x, stream()), heads_of(x, dim), weight.const_data_ptr(), eps, count, dim, heads_of(x, dim), out<float>(rstd));
}

void KernelAccelerator::norm_heads_backward(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& w, float eps, const at::Tensor& dw) const {
  const int64_t dim = w.numel(), count = x.numel() / dim;
  const at::Tensor rstd = at::empty({count}, x.options().dtype(at::kFloat)), weight = dense(w, x);
  at::Tensor partial;
  if (dw.defined()) partial = at::empty({norm_parts(count), dim}, rstd.options());
  const Where here = where(x, stream());
  cuda::rms_norm(here, heads_of(x, dim), weight.const_data_ptr(), eps, count, dim, {}, out<float>(rstd));
  cuda::rms_norm_backward(here, heads_of(gradient, dim), heads_of(x, dim), weight.const_data_ptr(), in<float>(rstd), count, dim, heads_of(gradient, dim),
                          dw.defined() ? out<float>(partial) : nullptr);
  if (dw.defined()) at::Tensor(dw).add_(partial.sum(0));
}

at::Tensor KernelAccelerator::swiglu(const at::Tensor& gate_up) const {
  const at::Tensor from = gate_up.contiguous();
  const int64_t width = from.size(1) / 2;
  at::Tensor y = at::empty({from.size(0), width}, from.options());
  cuda::swiglu(where(from, stream()), from.const_data_ptr(), from.size(0), width, y.data_ptr());
  return y;
}

at::Tensor KernelAccelerator::swiglu_backward(const at::Tensor& d_out, const at::Tensor& gate_up) const {
  const at::Tensor d = dense(d_out, gate_up), gates = gate_up.contiguous();
  at::Tensor gradient = at::empty_like(gates);
  cuda::swiglu_backward(where(gates, stream()), d.const_data_ptr(), gates.const_data_ptr(), gates.size(0), gates.size(1) / 2, gradient.data_ptr());
  return gradient;
}

void KernelAccelerator::embedding_backward(const at::Tensor& dy, const at::Tensor& ids, const at::Tensor& gradient) const {
  add_rows(dy, ids.to(at::kLong), gradient);
}

void KernelAccelerator::rotate_heads(const at::Tensor& x, int64_t heads, int64_t head_stride, int64_t dim, RopePairs pairs, const at::Tensor& positions,
                                     const RopeTable& rope, bool inverse) const {
  const at::Tensor places = dense_ids(positions);
  rotate(where(x, stream()), {.x = x.data_ptr(), .rows = x.size(0), .row_stride = x.stride(0), .heads = heads, .head_stride = head_stride, .dim = dim,
                              .neighbours = pairs == RopePairs::kNeighbours, .inverse = inverse, .positions = in<int32_t>(places),
                              .cos = in<float>(rope.cos), .sin = in<float>(rope.sin)});
}

void KernelAccelerator::store_rows(const at::Tensor& rows, const std::vector<void*>& to, int64_t offset) const {
  const at::Tensor addresses = upload(at::from_blob(const_cast<void**>(to.data()), {static_cast<int64_t>(to.size())}, at::kLong));
  cuda::store_rows(where(rows, stream()), {.rows = rows.const_data_ptr(), .addresses = in<int64_t>(addresses), .count = rows.size(0), .dim = rows.size(1),
                                           .stride = rows.stride(0), .offset = offset});
}

at::Tensor KernelAccelerator::attend_cached(const at::Tensor& q, const AttentionShape& shape, int64_t value_dim, const CachedRows& cached) const {
  if (shape.head_dim > kMostKeyDim || value_dim > kMostValueDim) return TensorAccelerator::attend_cached(q, shape, value_dim, cached);
  // One copy to the device: addresses, counts, and where each query's runs begin.
  const auto runs = static_cast<int64_t>(cached.runs.size());
  at::Tensor host = at::empty({2 * runs + cached.queries() + 1}, at::kLong);
  int64_t* number = out<int64_t>(host);
  for (int64_t r = 0; r < runs; ++r) {
    number[r] = static_cast<int64_t>(reinterpret_cast<intptr_t>(cached.runs[static_cast<size_t>(r)].rows));
    number[runs + r] = cached.runs[static_cast<size_t>(r)].count;
  }
  std::copy(cached.first_run.begin(), cached.first_run.end(), number + 2 * runs);
  const at::Tensor there = upload(host);
  at::Tensor mixed = at::empty({cached.queries(), shape.heads * value_dim}, q.options());
  const int64_t* numbers = in<int64_t>(there);
  cuda::attend_cached(where(q, stream()), {.q = q.const_data_ptr(), .queries = cached.queries(), .heads = shape.heads, .key_value_heads = shape.key_value_heads,
                                           .head_dim = shape.head_dim, .value_dim = value_dim, .scale = shape.scale, .addresses = numbers,
                                           .counts = numbers + runs, .first_run = numbers + 2 * runs, .stride = cached.stride,
                                           .values_begin = cached.values_begin, .out = mixed.data_ptr()});
  return mixed;
}

at::Tensor KernelAccelerator::draw_tokens(const at::Tensor& logits, const at::Tensor& uniforms, double inverse_temperature, bool greedy) const {
  TESSERA_CHECK(logits.is_contiguous(), "draws from ", logits.sizes());
  at::Tensor drawn = at::empty({logits.size(0), 2}, uniforms.options());
  cuda::draw_tokens(where(logits, stream()), {.data = logits.data_ptr(), .rows = logits.size(0), .vocabulary = logits.size(1)}, in<double>(uniforms),
                    static_cast<float>(inverse_temperature), greedy, out<double>(drawn));
  return drawn;
}

at::Tensor KernelAccelerator::choose_experts(const at::Tensor& scores, const at::Tensor& bias, const ExpertChoice& rules) const {
  if (rules.experts > kMostExperts || rules.groups > kMostGroups) return TensorAccelerator::choose_experts(scores, bias, rules);
  const at::Tensor values = scores.to(at::kFloat).contiguous(), offsets = bias.defined() ? bias.to(at::kFloat).contiguous() : bias;
  at::Tensor chosen = at::empty({scores.size(0), rules.choices}, scores.options().dtype(at::kInt));
  cuda::choose_experts(stream(), {.scores = in<float>(values), .bias = bias.defined() ? in<float>(offsets) : nullptr, .tokens = scores.size(0),
                                  .experts = static_cast<int32_t>(rules.experts), .choices = static_cast<int32_t>(rules.choices),
                                  .groups = static_cast<int32_t>(rules.groups), .kept_groups = static_cast<int32_t>(rules.kept_groups),
                                  .group_by_maximum = rules.group_by_maximum, .chosen = out<int32_t>(chosen)});
  return chosen;
}

RowMapPtr KernelAccelerator::sort_by_expert(const at::Tensor& experts, int64_t num_experts, RowGroups& groups) const {
  if (num_experts > kMostExperts) return TensorAccelerator::sort_by_expert(experts, num_experts, groups);
  const at::Tensor keys = dense_ids(experts);
  auto map = std::make_shared<RowMap>();
  map->tokens = keys.size(0);
  map->choices = keys.size(1);
  map->num_keys = static_cast<int32_t>(num_experts);
  map->device_row_of = at::empty_like(keys);
  map->device_slot_of = at::empty({keys.numel()}, keys.options());
  groups.device_offsets = at::empty({num_experts + 1}, keys.options());
  const at::Tensor workspace = at::empty({sorting_workspace(keys.numel(), map->num_keys)}, keys.options());
  cuda::sort_by_expert(stream(), {.experts = in<int32_t>(keys), .slots = keys.numel(), .num_experts = map->num_keys, .workspace = out<int32_t>(workspace),
                                  .offsets = out<int32_t>(groups.device_offsets), .row_of = out<int32_t>(map->device_row_of),
                                  .slot_of = out<int32_t>(map->device_slot_of)});
  return map;
}

at::Tensor KernelAccelerator::gather_rows(const at::Tensor& x, const RowMap& map) const {
  const at::Tensor from = x.contiguous();
  at::Tensor rows = at::empty({map.rows(), x.size(1)}, x.options());
  cuda::gather_rows(stream(), from.const_data_ptr(), x.size(1) * x.element_size(), in<int32_t>(map.device_slot_of), map.choices, map.rows(), rows.data_ptr());
  return rows;
}

void KernelAccelerator::add_sums(const at::Tensor& rows, const RowMap& map, const at::Tensor& weights, const at::Tensor& y) const {
  if (!y.is_contiguous() || !known(y)) return TensorAccelerator::add_sums(rows, map, weights, y);
  const at::Tensor from = dense(rows, y), factors = weights.defined() ? weights.to(at::kFloat).contiguous() : weights;
  cuda::add_sums(where(y, stream()), from.const_data_ptr(), in<int32_t>(map.device_row_of), weights.defined() ? in<float>(factors) : nullptr, map.tokens,
                 map.choices, y.size(1), y.data_ptr());
}

void KernelAccelerator::sums_backward(const at::Tensor& dy, const at::Tensor& rows, const at::Tensor& weights, const RowMap& map, const at::Tensor& d_rows,
                                      const at::Tensor& d_weights) const {
  const at::Tensor d = dense(dy, d_rows), made = dense(rows, d_rows), factors = weights.to(at::kFloat).contiguous();
  at::Tensor(d_weights).zero_();  // choices without a row
  cuda::sums_backward(where(d_rows, stream()), {.dy = d.const_data_ptr(), .rows = made.const_data_ptr(), .weights = in<float>(factors),
                                                .slot_of = in<int32_t>(map.device_slot_of), .choices = map.choices, .count = map.rows(),
                                                .dim = rows.size(1), .d_rows = d_rows.data_ptr(), .d_weights = out<float>(d_weights)});
}

void KernelAccelerator::cross_entropy(const at::Tensor& logits, const at::Tensor& ids, const at::Tensor& weights, bool want_gradient,
                                      const at::Tensor& log_probs) const {
  cuda::cross_entropy(where(logits, stream()), logits_of(logits, ids), want_gradient ? in<float>(weights) : nullptr, out<float>(log_probs));
}

void KernelAccelerator::softmax_rows(const at::Tensor& logits, const at::Tensor& ids, float inverse_temperature, const at::Tensor& softmax) const {
  cuda::softmax_rows(where(logits, stream()), logits_of(logits, ids), inverse_temperature, out<float>(softmax));
}

void KernelAccelerator::softmax_gradient(const at::Tensor& logits, const at::Tensor& ids, const at::Tensor& weights, float inverse_temperature,
                                         const at::Tensor& softmax) const {
  cuda::softmax_gradient(where(logits, stream()), logits_of(logits, ids), in<float>(weights), inverse_temperature, in<float>(softmax));
}

void KernelAccelerator::add_rows(const at::Tensor& rows, const at::Tensor& indices, const at::Tensor& y) const {
  TESSERA_CHECK(y.is_contiguous() && known(y), "rows added to ", y.sizes(), " ", y.scalar_type());
  const at::Tensor from = y.scalar_type() == at::kFloat && known(rows) ? rows.contiguous() : dense(rows, y);
  const auto [keys, order] = at::sort(indices, /*stable=*/true, 0, /*descending=*/false);
  add_sorted_rows(where(from, stream()), {.x = from.const_data_ptr(), .keys = in<int64_t>(keys), .order = in<int64_t>(order), .count = keys.numel(),
                                          .dim = rows.size(1), .y = y.data_ptr(), .y_float = y.scalar_type() == at::kFloat});
}

fp8::Quantized KernelAccelerator::quantize(const at::Tensor& x, const fp8::Scheme& scheme, bool transposed) const {
  if (!e4m3(scheme) || !known(x)) return TensorAccelerator::quantize(x, scheme, transposed);
  const at::Tensor from = x.contiguous();
  const int64_t rows = x.size(0), columns = x.size(1);
  if (scheme.tile == kByRow && !transposed) {
    auto [job, q] = quantize_job(from, scheme, {rows, columns}, {rows, tiles_of(columns)}, stream());
    quantize_rows(job);
    return q;
  }
  if (scheme.tile == kByToken && transposed) {
    auto [job, q] = quantize_job(from, scheme, {columns, rows}, {columns, tiles_of(rows)}, stream());
    quantize_tokens(job);
    return q;
  }
  if (scheme.tile == kBlocks) return quantize_stack(x, scheme, 1, transposed);
  return TensorAccelerator::quantize(x, scheme, transposed);
}

fp8::Quantized KernelAccelerator::quantize_stack(const at::Tensor& x, const fp8::Scheme& scheme, int64_t matrices, bool transposed) const {
  if (!e4m3(scheme) || !known(x) || scheme.tile != kBlocks) return TensorAccelerator::quantize_stack(x, scheme, matrices, transposed);
  const at::Tensor from = x.contiguous();
  const int64_t rows = transposed ? x.size(1) : x.size(0) / matrices, columns = transposed ? x.size(0) / matrices : x.size(1);
  auto [job, q] = quantize_job(from, scheme, {matrices * rows, columns}, {matrices * tiles_of(rows), tiles_of(columns)}, stream());
  quantize_blocks(job, matrices, transposed);
  return q;
}

at::Tensor KernelAccelerator::dequantize(const fp8::Quantized& x, const fp8::Scheme& scheme, at::ScalarType type) const {
  const bool sized = scheme.tile.rows > 0 && scheme.tile.columns > 0;
  if (!e4m3(scheme) || !sized || (type != at::kFloat && type != at::kBFloat16)) return TensorAccelerator::dequantize(x, scheme, type);
  const at::Tensor codes = x.codes.contiguous(), scales = x.scales.contiguous();
  at::Tensor values = at::empty(codes.sizes(), scales.options().dtype(type));
  cuda::dequantize({.codes = static_cast<const uint8_t*>(codes.const_data_ptr()), .scales = in<float>(scales), .rows = codes.size(0), .columns = codes.size(1),
                    .tile_rows = scheme.tile.rows, .tile_columns = scheme.tile.columns, .x = values.data_ptr(), .bfloat16 = type == at::kBFloat16,
                    .stream = stream()});
  return values;
}

fp8::Quantized KernelAccelerator::quantize_norm(const at::Tensor& x, const at::Tensor& w, float eps, const fp8::Scheme& scheme, at::Tensor* rstd) const {
  if (!by_row(scheme) || !known(x)) return TensorAccelerator::quantize_norm(x, w, eps, scheme, rstd);
  const at::Tensor from = x.contiguous(), weight = dense(w, x);
  at::Tensor scales = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  auto [job, q] = quantize_job(from, scheme, x.sizes(), {x.size(0), tiles_of(x.size(1))}, stream());
  cuda::quantize_norm({.to = job, .w = weight.const_data_ptr(), .eps = eps, .rstd = out<float>(scales)});
  if (rstd != nullptr) *rstd = scales;
  return q;
}

KernelAccelerator::QuantizedSwiglu KernelAccelerator::quantize_swiglu(const at::Tensor& gate_up, const fp8::Scheme& scheme) const {
  if (!by_row(scheme) || !known(gate_up)) return TensorAccelerator::quantize_swiglu(gate_up, scheme);
  const at::Tensor from = gate_up.contiguous();
  const int64_t rows = from.size(0), width = from.size(1) / 2;
  auto [product_job, product] = quantize_job(from, scheme, {rows, width}, {rows, tiles_of(width)}, stream());
  auto [gates_job, gates] = quantize_job(from, scheme, {2 * rows, width}, {2 * rows, tiles_of(width)}, stream());
  product_job.columns = width;
  cuda::quantize_swiglu(product_job, {gates_job.codes, gates_job.scales});
  return {std::move(product), std::move(gates)};
}

at::Tensor KernelAccelerator::swiglu_of_codes(const fp8::Quantized& gate_up, const fp8::Scheme& scheme, at::ScalarType type) const {
  if (!by_row(scheme) || (type != at::kFloat && type != at::kBFloat16)) return TensorAccelerator::swiglu_of_codes(gate_up, scheme, type);
  const GateUp job = gate_up_job(gate_up, type, stream());
  at::Tensor y = at::empty({job.rows, job.width}, gate_up.scales.options().dtype(type));
  cuda::swiglu_of_codes(job, y.data_ptr());
  return y;
}

at::Tensor KernelAccelerator::swiglu_backward_of_codes(const at::Tensor& d_out, const fp8::Quantized& gate_up, const fp8::Scheme& scheme) const {
  if (!by_row(scheme) || !known(d_out)) return TensorAccelerator::swiglu_backward_of_codes(d_out, gate_up, scheme);
  const at::Tensor d = d_out.contiguous();
  const GateUp job = gate_up_job(gate_up, d.scalar_type(), stream());
  at::Tensor gradient = at::empty({job.rows, 2 * job.width}, d.options());
  cuda::swiglu_backward_of_codes(job, d.const_data_ptr(), gradient.data_ptr());
  return gradient;
}

void KernelAccelerator::add_grouped_scaled_gradient(const at::Tensor& dy, const fp8::Scheme& scheme_dy, const at::Tensor& u, const fp8::Scheme& scheme_u,
                                                    const RowGroups& groups, const at::Tensor& gradient) const {
  const bool tokens = scheme_dy.tile == kByToken && scheme_u.tile == kByToken && e4m3(scheme_dy) && e4m3(scheme_u);
  if (!tokens || !known(dy) || !known(u)) return TensorAccelerator::add_grouped_scaled_gradient(dy, scheme_dy, u, scheme_u, groups, gradient);
  const ByExpert operands = quantized_by_expert(dy, scheme_dy, u, scheme_u, groups);
  add_padded_product(operands.dy, operands.u, operands.padded, dy.scalar_type(), gradient);
}

KernelAccelerator::ByExpert KernelAccelerator::quantized_by_expert(const at::Tensor& dy, const fp8::Scheme& scheme_dy, const at::Tensor& u,
                                                                   const fp8::Scheme& scheme_u, const RowGroups& groups) const {
  ByExpert operands{quantize_expert_tokens(dy, scheme_dy, groups, stream()), quantize_expert_tokens(u, scheme_u, groups, stream()), {}};
  operands.padded.device_offsets = padded_offsets(groups.device_offsets);
  return operands;
}

void KernelAccelerator::add_padded_product(const fp8::Quantized& dy, const fp8::Quantized& u, const RowGroups& padded, at::ScalarType type,
                                           const at::Tensor& gradient) const {
  const auto values = [&](const fp8::Quantized& x) { return dequantize({x.codes, x.scales.t()}, {fp8::Format::kE4m3, kByRow}, type).t(); };
  add_grouped_gradient(values(dy), values(u), padded, gradient);
}

void KernelAccelerator::adamw(const std::vector<AdamWUpdate>& updates, const AdamWStep& step) const {
  if (updates.empty()) return;
  UpdateTerms terms{.factors = factors_of(step), .narrow = narrow(updates[0].moments.exp_avg), .stochastic = updates[0].moments.noise.has_value()};
  std::vector<Update> items;
  for (const AdamWUpdate& u : updates) {
    TESSERA_CHECK(narrow(u.moments.exp_avg) == terms.narrow && u.moments.noise.has_value() == terms.stochastic, "updates of one call are alike");
    items.push_back({.weight = out<float>(u.weight), .gradient = in<float>(u.gradient), .exp_avg = u.moments.exp_avg.data_ptr(),
                     .exp_avg_sq = u.moments.exp_avg_sq.data_ptr(), .count = u.weight.numel(), .keep = step.keep(u.weight_decay),
                     .noise = u.moments.noise.value_or(MomentNoise{})});
  }
  cuda::adamw(stream(), terms, items);
}

at::Tensor KernelAccelerator::sum_of_squares(const std::vector<at::Tensor>& parts) const {
  std::vector<Numbers> all;
  for (const at::Tensor& x : parts) all.push_back({in<float>(x), x.numel()});
  const auto options = parts.at(0).options().dtype(at::kDouble);
  at::Tensor total = at::empty({}, options);
  const at::Tensor partial = at::empty({square_parts(all)}, options);
  cuda::sum_of_squares(stream(), all, out<double>(partial), out<double>(total));
  return total;
}

}  // namespace tessera::kernels::cuda
