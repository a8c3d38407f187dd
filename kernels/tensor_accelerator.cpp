#include "kernels/tensor_accelerator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace tessera::kernels {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

at::Tensor wide(const at::Tensor& x) { return x.to(at::kFloat); }

at::Tensor normed(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& w) { return x * rstd.unsqueeze(-1) * w; }
at::Tensor rstd_of(const at::Tensor& x, float eps) { return x.square().mean(-1).add_(eps).rsqrt_(); }

struct NormGradients {
  at::Tensor dx, dw;
};
/// All float32, over the last dimension; dw is summed over the others.
NormGradients norm_gradients(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, const at::Tensor& rstd) {
  const at::Tensor unit = x * rstd.unsqueeze(-1), g = dy * w;
  return {(g - unit * (g * unit).mean(-1, true)) * rstd.unsqueeze(-1), (dy * unit).reshape({-1, w.numel()}).sum(0)};
}

/// What one segment attends with: its queries [H, n, d], and the keys [H, k, d] and values [H, k, W] that it sees; float32.
struct Piece {
  at::Tensor rows;  // [k] int64: which rows of the micro-batch the keys are
  at::Tensor q, k, v, mask;
};

Piece piece_of(const HeadLayout& l, const Operands& x, const SegmentPlan& plan, size_t segment) {
  const Segment& s = plan.segments[segment];
  const KeyRanges& ranges = plan.ranges[segment];
  std::vector<at::Tensor> rows;
  for (size_t r = 0; r < ranges.starts.size(); ++r) rows.push_back(at::arange(ranges.starts[r], ranges.starts[r] + ranges.lengths[r], at::kLong));
  Piece piece;
  piece.rows = at::cat(rows).to(x.q.device());
  const int64_t group = l.heads / l.key_value_heads;
  const auto per_head = [&](const at::Tensor& heads) { return wide(heads).transpose(0, 1).repeat_interleave(group, 0); };
  piece.q = wide(heads_of(x.q, l.heads, l.key_dim + l.shared_dim, l.key_dim + l.shared_dim).narrow(0, s.start, s.length)).transpose(0, 1);
  piece.k = per_head(heads_of(x.k, l.key_value_heads, l.key_step, l.key_dim).index_select(0, piece.rows));
  piece.v = per_head(heads_of(x.v, l.key_value_heads, l.value_step, l.value_dim).index_select(0, piece.rows));
  if (l.shared_dim > 0)
    piece.k = at::cat({piece.k, wide(x.shared.narrow(1, 0, l.shared_dim).index_select(0, piece.rows)).unsqueeze(0).expand({l.heads, -1, -1})}, 2);
  const int64_t before = ranges.keys - s.length;
  piece.mask = at::ones({s.length, ranges.keys}, x.q.options().dtype(at::kBool)).tril(before).logical_not();
  return piece;
}

at::Tensor scores_of(const Piece& p, float scale) { return p.q.bmm(p.k.transpose(1, 2)).mul_(scale).masked_fill_(p.mask, kNever); }

/// Values in [0, 2^32) as int64, which is what LibTorch has.
at::Tensor low_bits(const at::Tensor& x) { return x.bitwise_and(int64_t{0xFFFFFFFF}); }

/// rounding_noise() of elements first, first + 1, ...
at::Tensor noise_of(const MomentNoise& noise, const at::Tensor& like) {
  const at::Tensor element = at::arange(noise.first, noise.first + like.numel(), like.options().dtype(at::kLong));
  const auto low = static_cast<int64_t>(noise.key & 0xFFFFFFFF), high_key = static_cast<int64_t>(noise.key >> 32);
  at::Tensor x = low_bits(element).bitwise_xor(low);
  const at::Tensor high = low_bits(element.bitwise_right_shift(32).mul(int64_t{0x9E3779B9}).add(high_key));
  for (int round = 0; round < 2; ++round) {
    x = x.bitwise_xor(x.bitwise_right_shift(16));
    x = low_bits(x.mul(int64_t{0x7FEB352D}));
    x = x.bitwise_xor(x.bitwise_right_shift(15));
    x = low_bits(x.mul(int64_t{0x846CA68B}));
    x = x.bitwise_xor(x.bitwise_right_shift(16)).bitwise_xor(high);
  }
  return x.bitwise_xor(x.bitwise_right_shift(16));
}

/// As rounding.h's to_bfloat16_stochastic.
at::Tensor rounded_stochastically(const at::Tensor& x, const at::Tensor& noise) {
  const at::Tensor bits = x.view(at::kInt).add(noise.bitwise_and(int64_t{0xFFFF}).to(at::kInt)).bitwise_and(int64_t{-0x10000});
  return bits.view(at::kFloat).to(at::kBFloat16);
}

}  // namespace

at::Tensor TensorAccelerator::upload(const at::Tensor& host) const { return type_ == at::kCPU ? host.clone() : host.to(c10::Device(type_)); }

// What lies behind everything else on the stream is read.
void TensorAccelerator::synchronize() const { (void)at::zeros({1}, at::TensorOptions(at::kFloat).device(type_)).item<float>(); }

at::Tensor TensorAccelerator::rms_norm(const at::Tensor& x, const at::Tensor& w, float eps, at::Tensor* rstd) const {
  const at::Tensor values = wide(x), scale = rstd_of(values, eps);
  if (rstd != nullptr) *rstd = scale;
  return normed(values, scale, wide(w)).to(x.scalar_type());
}

at::Tensor TensorAccelerator::rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, const at::Tensor& rstd,
                                                const at::Tensor& dw) const {
  const NormGradients gradients = norm_gradients(wide(dy), wide(x), wide(w), rstd);
  if (dw.defined()) at::Tensor(dw).add_(gradients.dw);
  return gradients.dx.to(x.scalar_type());
}

void TensorAccelerator::norm_heads(const at::Tensor& x, const at::Tensor& w, float eps) const {
  const at::Tensor heads = heads_of(x.variable_data(), x.size(1) / w.numel(), w.numel(), w.numel()), values = wide(heads);
  heads.copy_(normed(values, rstd_of(values, eps), wide(w)));
}

void TensorAccelerator::norm_heads_backward(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& w, float eps, const at::Tensor& dw) const {
  const int64_t dim = w.numel(), heads = x.size(1) / dim;
  const at::Tensor values = wide(heads_of(x, heads, dim, dim)), d = heads_of(gradient, heads, dim, dim);
  const NormGradients gradients = norm_gradients(wide(d), values, wide(w), rstd_of(values, eps));
  if (dw.defined()) at::Tensor(dw).add_(gradients.dw);
  d.copy_(gradients.dx);
}

at::Tensor TensorAccelerator::swiglu(const at::Tensor& gate_up) const {
  const auto halves = wide(gate_up).chunk(2, 1);
  return at::silu(halves[0]).mul_(halves[1]).to(gate_up.scalar_type());
}

at::Tensor TensorAccelerator::swiglu_backward(const at::Tensor& d_out, const at::Tensor& gate_up) const {
  const auto halves = wide(gate_up).chunk(2, 1);
  const at::Tensor d = wide(d_out), sigmoid = halves[0].sigmoid(), silu = halves[0] * sigmoid;
  return at::cat({d * halves[1] * (sigmoid + silu * (1 - sigmoid)), d * silu}, 1).to(gate_up.scalar_type());
}

at::Tensor TensorAccelerator::product_in(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) const { return a.to(type).mm(b.to(type)); }

void TensorAccelerator::gemm(const at::Tensor& a, Transpose transpose_a, const at::Tensor& b, Transpose transpose_b, const at::Tensor& c, double alpha,
                             double beta) const {
  // Operands are of one type: where they are not, the narrower.
  const at::ScalarType type = a.scalar_type() == b.scalar_type() ? a.scalar_type() : at::kBFloat16;
  const at::Tensor left = (transpose_a == Transpose::kYes ? a.t() : a).to(type), right = (transpose_b == Transpose::kYes ? b.t() : b).to(type);
  at::Tensor to = c;
  if (type == c.scalar_type()) {
    at::addmm_out(to, c, left, right, beta, alpha);
    return;
  }
  const at::Tensor product = product_in(left, right, c.scalar_type());
  if (beta == 0) {
    to.copy_(product);
    if (alpha != 1) to.mul_(alpha);
  } else {
    if (beta != 1) to.mul_(beta);
    to.add_(product, alpha);
  }
}

at::Tensor TensorAccelerator::embedding(const at::Tensor& ids, const at::Tensor& table) const { return table.index_select(0, ids); }

void TensorAccelerator::embedding_backward(const at::Tensor& dy, const at::Tensor& ids, const at::Tensor& gradient) const {
  at::Tensor(gradient).index_add_(0, ids, wide(dy));
}

void TensorAccelerator::rotate_heads(const at::Tensor& x, int64_t heads, int64_t head_stride, int64_t dim, RopePairs pairs, const at::Tensor& positions,
                                     const RopeTable& rope, bool inverse) const {
  // Autograd does not count what raw kernels write either.
  const at::Tensor place = heads_of(x.variable_data(), heads, head_stride, dim), values = wide(place);
  const at::Tensor cos = rope.cos.index_select(0, positions).unsqueeze(1);
  const at::Tensor sin = rope.sin.index_select(0, positions).unsqueeze(1).mul(inverse ? -1.0 : 1.0);
  const bool neighbours = pairs == RopePairs::kNeighbours;
  const auto part = [&](int64_t which) { return neighbours ? values.slice(2, which, dim, 2) : values.narrow(2, which * dim / 2, dim / 2); };
  const at::Tensor first = part(0) * cos - part(1) * sin, second = part(1) * cos + part(0) * sin;
  place.copy_(neighbours ? at::stack({first, second}, 3).flatten(2) : at::cat({first, second}, 2));
}

void TensorAccelerator::attend(const HeadLayout& l, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out, const at::Tensor& lse) const {
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    const Segment& s = plan.segments[i];
    if (s.length == 0) continue;
    const Piece piece = piece_of(l, operands, plan, i);
    const at::Tensor scores = scores_of(piece, l.scale), sum = scores.logsumexp(2);
    lse.narrow(1, s.start, s.length).copy_(sum);
    const at::Tensor mixed = (scores - sum.unsqueeze(2)).exp_().bmm(piece.v);  // [H, n, W]
    heads_of(out, l.heads, l.value_dim, l.value_dim).narrow(0, s.start, s.length).copy_(mixed.transpose(0, 1));
  }
}

void TensorAccelerator::attend_backward(const HeadLayout& l, const Operands& operands, const SegmentPlan& plan, const at::Tensor& out, const at::Tensor& lse,
                                        const at::Tensor& d_out, const Operands& gradients) const {
  const int64_t group = l.heads / l.key_value_heads;
  const auto summed = [&](const at::Tensor& per_head) {  // [H, k, d] to [k, K, d]
    return per_head.view({l.key_value_heads, group, per_head.size(1), per_head.size(2)}).sum(1).transpose(0, 1);
  };
  const auto add = [](const at::Tensor& to, const at::Tensor& rows, const at::Tensor& values) { at::Tensor(to).index_add_(0, rows, values.to(to.scalar_type())); };
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    const Segment& s = plan.segments[i];
    if (s.length == 0) continue;
    const Piece piece = piece_of(l, operands, plan, i);
    const auto rows = [&](const at::Tensor& matrix) {
      return wide(heads_of(matrix, l.heads, l.value_dim, l.value_dim).narrow(0, s.start, s.length)).transpose(0, 1);
    };
    const at::Tensor p = (scores_of(piece, l.scale) - lse.narrow(1, s.start, s.length).unsqueeze(2)).exp_(), d = rows(d_out);
    const at::Tensor inner = (d * rows(out)).sum(2, true);
    const at::Tensor d_scores = (d.bmm(piece.v.transpose(1, 2)) - inner).mul_(p).mul_(l.scale);
    heads_of(gradients.q, l.heads, l.key_dim + l.shared_dim, l.key_dim + l.shared_dim)
        .narrow(0, s.start, s.length)
        .copy_(d_scores.bmm(piece.k).transpose(0, 1));
    const at::Tensor d_k = d_scores.transpose(1, 2).bmm(piece.q);
    add(heads_of(gradients.k, l.key_value_heads, l.key_step, l.key_dim), piece.rows, summed(d_k.narrow(2, 0, l.key_dim)));
    add(heads_of(gradients.v, l.key_value_heads, l.value_step, l.value_dim), piece.rows, summed(p.transpose(1, 2).bmm(d)));
    if (l.shared_dim > 0) at::Tensor(gradients.shared).index_add_(1, piece.rows, d_k.narrow(2, l.key_dim, l.shared_dim).to(gradients.shared.scalar_type()));
  }
}

namespace {

/// Memory that `like`'s device and type have at an address.
at::Tensor memory_at(const void* address, at::IntArrayRef sizes, at::IntArrayRef strides, const at::Tensor& like) {
  return at::for_blob(const_cast<void*>(address), sizes).strides(strides).options(like.options()).target_device(like.device()).make_tensor();
}

}  // namespace

void TensorAccelerator::store_rows(const at::Tensor& rows, const std::vector<void*>& to, int64_t offset) const {
  for (size_t i = 0; i < to.size(); ++i)
    memory_at(static_cast<char*>(to[i]) + offset * rows.element_size(), {rows.size(1)}, {1}, rows).copy_(rows[static_cast<int64_t>(i)]);
}

at::Tensor TensorAccelerator::attend_cached(const at::Tensor& q, const AttentionShape& shape, int64_t value_dim, const CachedRows& cached) const {
  const int64_t kv_heads = shape.key_value_heads, group = shape.heads / kv_heads;
  std::vector<at::Tensor> outputs;
  for (int64_t i = 0; i < cached.queries(); ++i) {
    std::vector<at::Tensor> keys, values;
    for (size_t r = cached.first_run[static_cast<size_t>(i)]; r < cached.first_run[static_cast<size_t>(i) + 1]; ++r) {
      const CachedRun& run = cached.runs[r];
      const char* begin = static_cast<const char*>(run.rows);
      keys.push_back(memory_at(begin, {run.count, kv_heads, shape.head_dim}, {cached.stride, shape.head_dim, 1}, q));
      values.push_back(memory_at(begin + cached.values_begin * q.element_size(), {run.count, kv_heads, value_dim}, {cached.stride, value_dim, 1}, q));
    }
    const at::Tensor k = wide(at::cat(keys)).permute({1, 2, 0}), v = wide(at::cat(values)).transpose(0, 1);  // [K, D, n], [K, n, W]
    const at::Tensor queries = wide(q.reshape({cached.queries(), kv_heads, group, shape.head_dim})[i]);
    outputs.push_back(queries.bmm(k).mul_(shape.scale).softmax(2).bmm(v).view({shape.heads * value_dim}));
  }
  return at::stack(outputs).to(q.scalar_type());
}

at::Tensor TensorAccelerator::draw_tokens(const at::Tensor& logits, const at::Tensor& uniforms, double inverse_temperature, bool greedy) const {
  const at::Tensor all = at::log_softmax(logits.to(at::kDouble) * inverse_temperature, 1);
  const at::Tensor passed = all.exp().cumsum(1);
  const at::Tensor place = greedy ? all.argmax(1, true) : at::searchsorted(passed, (uniforms * passed.select(1, -1)).unsqueeze(1), false, /*right=*/true).clamp_max(logits.size(1) - 1);
  return at::cat({place.to(at::kDouble), all.gather(1, place)}, 1);
}

at::Tensor TensorAccelerator::choose_experts(const at::Tensor& scores, const at::Tensor& bias, const ExpertChoice& rules) const {
  // A stable sort keeps the lower index first among equals.
  const auto order = [](const at::Tensor& values) { return std::get<1>(at::sort(values, /*stable=*/true, 1, /*descending=*/true)); };
  at::Tensor values = bias.defined() ? scores + bias : scores;
  if (rules.kept_groups < rules.groups) {
    const at::Tensor grouped = values.view({-1, rules.groups, rules.experts / rules.groups});
    const int64_t best = rules.group_by_maximum ? 1 : 2;
    const at::Tensor worth = std::get<0>(grouped.topk(best, 2)).sum(2);
    const at::Tensor dropped = order(worth).narrow(1, rules.kept_groups, rules.groups - rules.kept_groups);
    const at::Tensor drop = at::zeros(worth.sizes(), worth.options().dtype(at::kBool)).scatter_(1, dropped, true);
    values = grouped.masked_fill(drop.unsqueeze(2), kNever).view(values.sizes());
  }
  return order(values).narrow(1, 0, rules.choices).to(at::kInt).contiguous();
}

RowMapPtr TensorAccelerator::sort_by_expert(const at::Tensor& experts, int64_t num_experts, RowGroups& groups) const {
  auto map = std::make_shared<RowMap>();
  map->tokens = experts.size(0);
  map->choices = experts.size(1);
  map->num_keys = static_cast<int32_t>(num_experts);
  const at::Tensor flat = experts.reshape({-1}).to(at::kLong), slots = std::get<1>(at::sort(flat, /*stable=*/true, 0, /*descending=*/false));
  const at::Tensor counts = at::zeros({num_experts}, flat.options()).scatter_add_(0, flat, at::ones_like(flat));
  groups.device_offsets = at::cat({at::zeros({1}, flat.options()), counts.cumsum(0)}).to(at::kInt);
  map->device_slot_of = slots.to(at::kInt);
  map->device_row_of = at::empty_like(slots).scatter_(0, slots, at::arange(slots.numel(), slots.options())).to(at::kInt).view(experts.sizes());
  return map;
}

at::Tensor TensorAccelerator::gather_rows(const at::Tensor& x, const RowMap& map) const {
  const at::Tensor tokens = map.device_slot_of.floor_divide(map.choices);
  return x.element_size() == 1 ? x.view(at::kByte).index_select(0, tokens).view(x.scalar_type()) : x.index_select(0, tokens);
}

void TensorAccelerator::add_sums(const at::Tensor& rows, const RowMap& map, const at::Tensor& weights, const at::Tensor& y) const {
  if (rows.size(0) == 0) return;
  const at::Tensor there = map.device_row_of.ge(0);
  at::Tensor terms = wide(rows.index_select(0, map.device_row_of.clamp_min(0).reshape({-1}))).view({map.tokens, map.choices, -1});
  if (weights.defined()) terms = terms * weights.unsqueeze(2);
  const at::Tensor sums = terms.masked_fill(there.logical_not().unsqueeze(2), 0.0).sum(1);
  at::Tensor(y).copy_(wide(y) + sums);
}

void TensorAccelerator::sums_backward(const at::Tensor& dy, const at::Tensor& rows, const at::Tensor& weights, const RowMap& map, const at::Tensor& d_rows,
                                      const at::Tensor& d_weights) const {
  const at::Tensor slots = map.device_slot_of.to(at::kLong), d = wide(dy.index_select(0, slots.floor_divide(map.choices)));
  at::Tensor(d_rows).copy_(d * weights.reshape({-1}).index_select(0, slots).unsqueeze(1));
  at::Tensor(d_weights).zero_().view({-1}).index_copy_(0, slots, (d * wide(rows)).sum(1));
}

namespace {

/// body(expert, first row, rows) of each expert that has rows; waits for the device where the offsets lie there.
template <typename Body>
void for_each_expert(const RowGroups& groups, const Body& body) {
  std::vector<int64_t> offsets = groups.offsets;
  if (offsets.empty()) {
    const at::Tensor host = groups.device_offsets.to(at::kLong).cpu();
    offsets.assign(host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel());
  }
  for (size_t e = 0; e + 1 < offsets.size(); ++e)
    if (offsets[e + 1] > offsets[e]) body(static_cast<int64_t>(e), offsets[e], offsets[e + 1] - offsets[e]);
}

}  // namespace

at::Tensor TensorAccelerator::grouped_product(const at::Tensor& x, const at::Tensor& w, Transpose transpose, const RowGroups& groups) const {
  const int64_t out = w.size(0) / groups.experts();
  at::Tensor y = at::empty({x.size(0), transpose == Transpose::kYes ? out : w.size(1)}, x.options());
  for_each_expert(groups, [&](int64_t expert, int64_t begin, int64_t rows) {
    gemm(x.narrow(0, begin, rows), Transpose::kNo, w.narrow(0, expert * out, out), transpose, y.narrow(0, begin, rows), 1.0, 0.0);
  });
  return y;
}

void TensorAccelerator::add_grouped_gradient(const at::Tensor& dy, const at::Tensor& u, const RowGroups& groups, const at::Tensor& gradient) const {
  const int64_t out = gradient.size(0) / groups.experts();
  for_each_expert(groups, [&](int64_t expert, int64_t begin, int64_t rows) {
    gemm(dy.narrow(0, begin, rows), Transpose::kYes, u.narrow(0, begin, rows), Transpose::kNo, gradient.narrow(0, expert * out, out), 1.0, 1.0);
  });
}

void TensorAccelerator::cross_entropy(const at::Tensor& logits, const at::Tensor& ids, const at::Tensor& weights, bool want_gradient,
                                      const at::Tensor& log_probs) const {
  const at::Tensor place = ids.to(at::kLong).unsqueeze(1), all = at::log_softmax(wide(logits), 1);
  at::Tensor(log_probs).copy_(all.gather(1, place).squeeze(1));
  if (!want_gradient) return;
  const at::Tensor factor = weights.unsqueeze(1);
  at::Tensor(logits).copy_(all.exp().mul_(factor).scatter_add_(1, place, -factor));
}

void TensorAccelerator::softmax_rows(const at::Tensor& logits, const at::Tensor& ids, float inverse_temperature, const at::Tensor& softmax) const {
  const at::Tensor scaled = wide(logits) * inverse_temperature, all = at::log_softmax(scaled, 1);
  const at::Tensor entropy = all.exp().mul(all).sum(1).neg_(), log_prob = all.gather(1, ids.to(at::kLong).unsqueeze(1)).squeeze(1);
  at::Tensor(softmax).copy_(at::stack({wide(logits).amax(1), scaled.logsumexp(1), at::zeros_like(entropy), log_prob, entropy}, 1));
}

void TensorAccelerator::softmax_gradient(const at::Tensor& logits, const at::Tensor& ids, const at::Tensor& weights, float inverse_temperature,
                                         const at::Tensor& softmax) const {
  const at::Tensor factor = weights.unsqueeze(1) * inverse_temperature;
  const at::Tensor p = (wide(logits) * inverse_temperature - softmax.select(1, 1).unsqueeze(1)).exp_();
  at::Tensor(logits).copy_(p.mul_(factor).scatter_add_(1, ids.to(at::kLong).unsqueeze(1), -factor));
}

void TensorAccelerator::add_rows(const at::Tensor& rows, const at::Tensor& indices, const at::Tensor& y) const { at::Tensor(y).index_add_(0, indices, rows); }

namespace {

/// A matrix in whole tiles [R / tile rows, tile rows, C / tile columns, tile columns], zeros behind it.
at::Tensor in_tiles(const at::Tensor& x, const fp8::Tile& tile) {
  const int64_t rows = tile.rows > 0 ? tile.rows : std::max<int64_t>(1, x.size(0)), columns = tile.columns > 0 ? tile.columns : std::max<int64_t>(1, x.size(1));
  const int64_t down = (x.size(0) + rows - 1) / rows, across = (x.size(1) + columns - 1) / columns;
  return at::constant_pad_nd(x, {0, across * columns - x.size(1), 0, down * rows - x.size(0)}).view({down, rows, across, columns});
}
at::Tensor out_of_tiles(const at::Tensor& tiles, const at::Tensor& like) {
  return tiles.reshape({tiles.size(0) * tiles.size(1), tiles.size(2) * tiles.size(3)}).slice(0, 0, like.size(0)).slice(1, 0, like.size(1));
}

at::Tensor rounded_up_to_a_power_of_two(const at::Tensor& scale) {
  const auto [mantissa, exponent] = at::frexp(scale);  // in [0.5, 1)
  return at::ldexp(at::ones_like(scale), exponent - mantissa.eq(0.5).to(at::kInt));
}

}  // namespace

fp8::Quantized TensorAccelerator::quantize(const at::Tensor& x, const fp8::Scheme& scheme, bool transposed) const {
  const bool e4m3 = scheme.format == fp8::Format::kE4m3;
  const double largest = e4m3 ? 448 : 57344;
  const at::Tensor tiles = in_tiles(wide(x), scheme.tile), finite = tiles.isfinite();
  const at::Tensor amax = at::where(finite, tiles.abs(), 0.0).amax({1, 3});
  at::Tensor scale = at::where(amax.eq(0), 1.0, amax.div(static_cast<float>(largest))).to(at::kFloat).clamp_min(0x1p-126);
  if (scheme.power_of_two_scales) scale = rounded_up_to_a_power_of_two(scale);
  const at::Tensor scaled = tiles * scale.reciprocal().unsqueeze(1).unsqueeze(3);
  // LibTorch's casts do not saturate.
  at::Tensor bounded = at::where(finite, scaled.clamp(-largest, largest), scaled);
  if (e4m3) bounded = bounded.masked_fill(finite.logical_not(), std::numeric_limits<float>::quiet_NaN());
  const at::Tensor codes = out_of_tiles(bounded, x).to(e4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2);
  if (!transposed) return {codes.contiguous(), scale};
  return {codes.t().contiguous(), scale.t().contiguous()};
}

fp8::Quantized TensorAccelerator::quantize_stack(const at::Tensor& x, const fp8::Scheme& scheme, int64_t matrices, bool transposed) const {
  if (matrices == 1) return quantize(x, scheme, transposed);
  std::vector<at::Tensor> codes, scales;
  for (const at::Tensor& matrix : x.chunk(matrices)) {
    const fp8::Quantized one = quantize(matrix, scheme, transposed);
    codes.push_back(one.codes.view(at::kByte));  // LibTorch concatenates no codes
    scales.push_back(one.scales);
  }
  return {at::cat(codes).view(scheme.format == fp8::Format::kE4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2), at::cat(scales)};
}

at::Tensor TensorAccelerator::dequantize(const fp8::Quantized& x, const fp8::Scheme& scheme, at::ScalarType type) const {
  return out_of_tiles(in_tiles(wide(x.codes), scheme.tile) * x.scales.unsqueeze(1).unsqueeze(3), x.codes).to(type).contiguous();
}

fp8::Quantized TensorAccelerator::quantize_norm(const at::Tensor& x, const at::Tensor& w, float eps, const fp8::Scheme& scheme, at::Tensor* rstd) const {
  return quantize(rms_norm(x, w, eps, rstd), scheme, false);
}

TensorAccelerator::QuantizedSwiglu TensorAccelerator::quantize_swiglu(const at::Tensor& gate_up, const fp8::Scheme& scheme) const {
  return {quantize(swiglu(gate_up), scheme, false), quantize(gate_up.view({2 * gate_up.size(0), gate_up.size(1) / 2}), scheme, false)};
}

namespace {

/// Gates and ups [T, 2F] of rows [2T, F].
at::Tensor side_by_side(const at::Tensor& rows) { return rows.view({rows.size(0) / 2, 2 * rows.size(1)}); }

}  // namespace

at::Tensor TensorAccelerator::swiglu_of_codes(const fp8::Quantized& gate_up, const fp8::Scheme& scheme, at::ScalarType type) const {
  return swiglu(side_by_side(dequantize(gate_up, scheme, type)));
}

at::Tensor TensorAccelerator::swiglu_backward_of_codes(const at::Tensor& d_out, const fp8::Quantized& gate_up, const fp8::Scheme& scheme) const {
  return swiglu_backward(d_out, side_by_side(dequantize(gate_up, scheme, d_out.scalar_type())));
}

at::Tensor TensorAccelerator::scaled_product(const fp8::Quantized& a, const fp8::Scheme& scheme_a, const fp8::Quantized& b, const fp8::Scheme& scheme_b,
                                             at::ScalarType type) const {
  return dequantize(a, scheme_a, at::kFloat).mm(dequantize(b, scheme_b, at::kFloat).t()).to(type);
}

at::Tensor TensorAccelerator::grouped_scaled_product(const fp8::Quantized& x, const fp8::Scheme& scheme_x, const fp8::Quantized& w,
                                                     const fp8::Scheme& scheme_w, const RowGroups& groups, at::ScalarType type) const {
  const int64_t experts = groups.experts(), out = w.codes.size(0) / experts, bands = w.scales.size(0) / experts;
  std::vector<at::Tensor> stack;
  for (int64_t e = 0; e < experts; ++e)
    stack.push_back(dequantize({w.codes.narrow(0, e * out, out), w.scales.narrow(0, e * bands, bands)}, scheme_w, type));
  return grouped_product(dequantize(x, scheme_x, type), at::cat(stack), Transpose::kYes, groups);
}

void TensorAccelerator::add_grouped_scaled_gradient(const at::Tensor& dy, const fp8::Scheme& scheme_dy, const at::Tensor& u, const fp8::Scheme& scheme_u,
                                                    const RowGroups& groups, const at::Tensor& gradient) const {
  const auto rounded = [&](const at::Tensor& x, const fp8::Scheme& scheme) { return dequantize(quantize(x, scheme, false), scheme, x.scalar_type()); };
  if (scheme_dy.tile.whole() && scheme_u.tile.whole()) return add_grouped_gradient(rounded(dy, scheme_dy), rounded(u, scheme_u), groups, gradient);
  const int64_t out = gradient.size(0) / groups.experts();
  for_each_expert(groups, [&](int64_t expert, int64_t begin, int64_t rows) {
    gemm(rounded(dy.narrow(0, begin, rows), scheme_dy), Transpose::kYes, rounded(u.narrow(0, begin, rows), scheme_u), Transpose::kNo,
         gradient.narrow(0, expert * out, out), 1.0, 1.0);
  });
}

void TensorAccelerator::adamw(const std::vector<AdamWUpdate>& updates, const AdamWStep& step) const {
  const AdamWFactors f = factors_of(step);
  for (const AdamWUpdate& update : updates) {
    const Moments& moments = update.moments;
    const at::Tensor g = update.gradient * f.gradient_scale;
    const at::Tensor m = wide(moments.exp_avg).mul(f.beta1).add_(g, 1.0f - f.beta1);
    const at::Tensor v = wide(moments.exp_avg_sq).mul(f.beta2).addcmul_(g, g, 1.0f - f.beta2);
    at::Tensor(update.weight).mul_(step.keep(update.weight_decay)).addcdiv_(m, v.sqrt().mul_(f.inverse_root).add_(f.eps), -f.step_size);
    at::Tensor exp_avg = moments.exp_avg, exp_avg_sq = moments.exp_avg_sq;
    if (moments.noise) {
      const at::Tensor noise = noise_of(*moments.noise, m);
      exp_avg.copy_(rounded_stochastically(m, noise));
      exp_avg_sq.copy_(rounded_stochastically(v, noise.bitwise_right_shift(16)));
    } else {
      exp_avg.copy_(m);
      exp_avg_sq.copy_(v);
    }
  }
}

at::Tensor TensorAccelerator::sum_of_squares(const std::vector<at::Tensor>& parts) const {
  at::Tensor total = at::zeros({}, parts.at(0).options().dtype(at::kDouble));
  for (const at::Tensor& x : parts) total.add_(x.to(at::kDouble).square().sum());
  return total;
}

}  // namespace tessera::kernels
