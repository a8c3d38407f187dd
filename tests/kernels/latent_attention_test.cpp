#include "kernels/latent_attention.h"

#include "test_tensors.h"

namespace tessera::kernels {
namespace {

std::vector<double> frequencies(int64_t dim) {
  std::vector<double> f;
  for (int64_t i = 0; i < dim / 2; ++i) f.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim)));
  return f;
}

at::Tensor rotated(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, RopePairs pairs) {  // x: [T, H, R]
  if (pairs == RopePairs::kHalves) {
    const int64_t half = x.size(2) / 2;
    const at::Tensor a = x.slice(2, 0, half), b = x.slice(2, half);
    return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
  }
  const at::Tensor a = x.slice(2, 0, x.size(2), 2), b = x.slice(2, 1, x.size(2), 2);
  return at::stack({a * cos - b * sin, b * cos + a * sin}, 3).flatten(2);
}

/// Masked attention in double over keys put together from both parts; every segment is a document.
at::Tensor reference(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope, const LatentShape& s,
                     const std::vector<Segment>& segments, const at::Tensor& positions, const RopeTable& table) {
  const int64_t tokens = q.size(0);
  const at::Tensor cos = table.cos.index_select(0, positions.to(at::kLong)).to(at::kDouble).unsqueeze(1);
  const at::Tensor sin = table.sin.index_select(0, positions.to(at::kLong)).to(at::kDouble).unsqueeze(1);
  const auto qs = q.reshape({tokens, s.heads, s.nope_dim + s.rope_dim}).split_with_sizes({s.nope_dim, s.rope_dim}, 2);
  const auto kvs = kv.reshape({tokens, s.heads, s.nope_dim + s.value_dim}).split_with_sizes({s.nope_dim, s.value_dim}, 2);
  const at::Tensor shared = rotated(k_rope.unsqueeze(1), cos, sin, s.pairs).expand({tokens, s.heads, s.rope_dim});
  const at::Tensor queries = at::cat({qs[0], rotated(qs[1], cos, sin, s.pairs)}, 2), keys = at::cat({kvs[0], shared}, 2);
  at::Tensor mask = at::full({tokens, tokens}, -std::numeric_limits<double>::infinity(), at::kDouble);
  for (const Segment& segment : segments)
    for (int64_t i = 0; i < segment.length; ++i) mask[segment.start + i].slice(0, segment.start, segment.start + i + 1).zero_();
  const at::Tensor scores = at::einsum("ihd,jhd->hij", {queries, keys}) * s.scale + mask;
  return at::einsum("hij,jhd->ihd", {scores.softmax(-1), kvs[1]}).reshape({tokens, s.heads * s.value_dim});
}

struct Case {
  LatentShape shape;
  std::vector<Segment> segments;
  int64_t tokens;
};

class LatentAttentionGradients : public testing::TestWithParam<Case> {};

TEST_P(LatentAttentionGradients, EqualMaskedAttentionInDouble) {
  const auto& [shape, segments, tokens] = GetParam();
  at::Tensor positions = at::zeros({tokens}, at::kInt);
  for (const auto& s : segments)
    for (int64_t i = 0; i < s.length; ++i) positions[s.start + i] = static_cast<int32_t>(s.first_position + i);
  const RopeTable table = make_rope_table(frequencies(shape.rope_dim), 512);
  const int64_t queries = shape.heads * (shape.nope_dim + shape.rope_dim);
  const at::Tensor stacked = random_tensor({tokens, queries + shape.rope_dim}, 1), kv = random_tensor({tokens, shape.heads * (shape.nope_dim + shape.value_dim)}, 2);
  at::Tensor rs = reference_copy(stacked), rkv = reference_copy(kv);
  const auto rparts = rs.split_with_sizes({queries, shape.rope_dim}, 1);
  const at::Tensor expected = reference(rparts[0], rkv, rparts[1], shape, segments, positions, table);
  const at::Tensor direction = random_tensor({tokens, shape.heads * shape.value_dim}, 3);
  (expected * direction.to(at::kDouble)).sum().backward();

  // Queries and shared keys as columns of one matrix, as the model has them.
  at::Tensor ls = stacked.clone().requires_grad_(true), lkv = kv.clone().requires_grad_(true);
  const auto parts = (ls * 1.0).split_with_sizes({queries, shape.rope_dim}, 1);
  const at::Tensor out = latent_attention(parts[0], lkv * 1.0, parts[1], shape, segments, positions, table);
  (out * direction).sum().backward();
  expect_close(out.detach(), expected.detach(), 2e-5, "output");
  expect_close(ls.grad(), rs.grad(), 2e-5, "gradient of queries and shared keys");
  expect_close(lkv.grad(), rkv.grad(), 2e-5, "gradient of keys and values");
}

LatentShape shape_of(int64_t heads, int64_t nope, int64_t rope, int64_t value, RopePairs pairs = RopePairs::kNeighbours) {
  return {heads, nope, rope, value, 1.0f / std::sqrt(static_cast<float>(nope + rope)), pairs};
}

INSTANTIATE_TEST_SUITE_P(Layouts, LatentAttentionGradients,
                         testing::Values(Case{shape_of(4, 16, 8, 20), {{0, 70, 0, -1}, {70, 1, 0, -1}, {71, 30, 0, -1}}, 101},
                                         Case{shape_of(3, 32, 16, 16), {{0, 33, 0, -1}}, 33},
                                         Case{shape_of(2, 5, 2, 7), {{0, 3, 0, -1}, {3, 6, 4, -1}}, 9},
                                         Case{shape_of(4, 16, 8, 20, RopePairs::kHalves), {{0, 40, 0, -1}}, 40}));

TEST(LatentAttention, TheAbsorbedFormGivesTheSame) {
  const LatentShape shape = shape_of(4, 16, 8, 20);
  const int64_t tokens = 37, latent = 24, row = latent + shape.rope_dim;
  const at::Tensor w = random_tensor({shape.heads * (shape.nope_dim + shape.value_dim), latent}, 1).mul_(0.3);
  const at::Tensor c = random_tensor({tokens, latent}, 2), k_rope = random_tensor({tokens, shape.rope_dim}, 3);
  const at::Tensor q = random_tensor({tokens, shape.heads * (shape.nope_dim + shape.rope_dim)}, 4);
  at::Tensor positions = at::arange(tokens, at::kInt);
  const RopeTable table = make_rope_table(frequencies(shape.rope_dim), 64);
  const at::Tensor plain = latent_attention(q.clone(), c.mm(w.t()), k_rope.clone(), shape, {{0, tokens, 0, -1}}, positions, table);

  at::Tensor q2 = q.clone(), k2 = k_rope.clone();
  rotate_latent(q2, k2, shape, positions, table);
  const at::Tensor cache = at::cat({c, k2}, 1);
  CachedRows cached{.stride = row};
  for (int64_t t = 0; t < tokens; ++t) {
    cached.runs.push_back({cache.const_data_ptr<float>(), t + 1});
    cached.first_run.push_back(cached.runs.size());
  }
  const at::Tensor mixed = attention_decode(absorb_queries(q2, w, shape), {shape.heads, 1, row, shape.scale}, latent, cached);
  expect_close(expand_values(mixed, w, shape), plain, 1e-5, "absorbed");
  // One token alone takes the path that splits heads over threads.
  const CachedRows last{{{cache.const_data_ptr<float>(), tokens}}, {0, 1}, row, 0};
  const at::Tensor one = attention_decode(absorb_queries(q2.narrow(0, tokens - 1, 1), w, shape), {shape.heads, 1, row, shape.scale}, latent, last);
  expect_close(expand_values(one, w, shape), plain.narrow(0, tokens - 1, 1), 1e-5, "one token");
}

}  // namespace
}  // namespace tessera::kernels
