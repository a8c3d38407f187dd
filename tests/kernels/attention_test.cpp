#include "kernels/attention.h"

#include "test_tensors.h"

namespace tessera::kernels {
namespace {

std::vector<double> frequencies(int64_t head_dim) {
  std::vector<double> f;
  for (int64_t i = 0; i < head_dim / 2; ++i) f.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  return f;
}

bool is_ancestor(const std::vector<Segment>& segments, int64_t ancestor, int64_t of) {
  for (int64_t s = segments[static_cast<size_t>(of)].parent; s >= 0; s = segments[static_cast<size_t>(s)].parent)
    if (s == ancestor) return true;
  return false;
}

/// Plain masked attention in double.
at::Tensor reference(const at::Tensor& qkv, const AttentionShape& s, const std::vector<Segment>& segments, const at::Tensor& positions,
                     const RopeTable& table) {
  const int64_t tokens = qkv.size(0), half = s.head_dim / 2;
  const at::Tensor cos = table.cos.index_select(0, positions.to(at::kLong)).to(at::kDouble).unsqueeze(1);
  const at::Tensor sin = table.sin.index_select(0, positions.to(at::kLong)).to(at::kDouble).unsqueeze(1);
  const auto rotated = [&](const at::Tensor& x) {
    const at::Tensor a = x.slice(2, 0, half), b = x.slice(2, half);
    return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
  };
  const auto parts = qkv.split_with_sizes({s.heads * s.head_dim, s.key_value_heads * s.head_dim, s.key_value_heads * s.head_dim}, 1);
  const at::Tensor q = rotated(parts[0].reshape({tokens, s.heads, s.head_dim}));
  const at::Tensor k = rotated(parts[1].reshape({tokens, s.key_value_heads, s.head_dim})).repeat_interleave(s.heads / s.key_value_heads, 1);
  const at::Tensor v = parts[2].reshape({tokens, s.key_value_heads, s.head_dim}).repeat_interleave(s.heads / s.key_value_heads, 1);
  at::Tensor mask = at::full({tokens, tokens}, -std::numeric_limits<double>::infinity(), at::kDouble);
  for (int64_t a = 0; a < static_cast<int64_t>(segments.size()); ++a)
    for (int64_t b = 0; b < static_cast<int64_t>(segments.size()); ++b)
      for (int64_t i = 0; i < segments[static_cast<size_t>(a)].length; ++i)
        for (int64_t j = 0; j < segments[static_cast<size_t>(b)].length; ++j)
          if ((a == b && j <= i) || is_ancestor(segments, b, a))
            mask[segments[static_cast<size_t>(a)].start + i][segments[static_cast<size_t>(b)].start + j] = 0;
  const at::Tensor scores = at::einsum("ihd,jhd->hij", {q, k}) * s.scale + mask;
  return at::einsum("hij,jhd->ihd", {scores.softmax(-1), v}).reshape({tokens, s.heads * s.head_dim});
}

struct Case {
  AttentionShape shape;
  std::vector<Segment> segments;
  int64_t tokens;
};

class AttentionGradients : public testing::TestWithParam<Case> {};

TEST_P(AttentionGradients, EqualMaskedAttentionInDouble) {
  const auto& [shape, segments, tokens] = GetParam();
  at::Tensor positions = at::zeros({tokens}, at::kInt);
  for (const auto& s : segments)
    for (int64_t i = 0; i < s.length; ++i) positions[s.start + i] = static_cast<int32_t>(s.first_position + i);
  const RopeTable table = make_rope_table(frequencies(shape.head_dim), 512);
  const at::Tensor qkv = random_tensor({tokens, shape.row()}, 1);
  at::Tensor rq = reference_copy(qkv);
  const at::Tensor expected = reference(rq, shape, segments, positions, table);
  const at::Tensor direction = random_tensor({tokens, shape.heads * shape.head_dim}, 2);
  (expected * direction.to(at::kDouble)).sum().backward();

  at::Tensor leaf = qkv.clone().requires_grad_(true);
  const at::Tensor out = attention(leaf * 1.0, shape, segments, positions, table);
  (out * direction).sum().backward();
  expect_close(out.detach(), expected.detach(), 2e-5, "output");
  expect_close(leaf.grad(), rq.grad(), 2e-5, "gradient");
}

AttentionShape shape_of(int64_t heads, int64_t kv, int64_t dim) { return {heads, kv, dim, 1.0f / std::sqrt(static_cast<float>(dim))}; }

INSTANTIATE_TEST_SUITE_P(
    Layouts, AttentionGradients,
    testing::Values(Case{shape_of(9, 3, 64), {{0, 150, 0, -1}, {150, 1, 0, -1}, {151, 70, 0, -1}}, 221},
                    Case{shape_of(4, 4, 16), {{0, 33, 0, -1}}, 33}, Case{shape_of(6, 1, 24), {{0, 17, 0, -1}, {17, 65, 0, -1}}, 82},
                    Case{shape_of(2, 1, 6), {{0, 5, 0, -1}}, 5},
                    // Two continuations of a shared prompt, one of them with a child of its own.
                    Case{shape_of(4, 2, 32), {{0, 40, 0, -1}, {40, 20, 40, 0}, {60, 70, 40, 0}, {130, 9, 60, 1}, {139, 12, 0, -1}}, 151}));

TEST(Attention, NormalisedHeadsEqualTheReferenceInDouble) {
  const AttentionShape shape = shape_of(6, 2, 12);
  const std::vector<Segment> segments = {{0, 20, 0, -1}, {20, 13, 0, -1}};
  const int64_t tokens = 33, heads = shape.heads + shape.key_value_heads;
  const at::Tensor positions = at::cat({at::arange(20, at::kInt), at::arange(13, at::kInt)});
  const RopeTable table = make_rope_table(frequencies(shape.head_dim), 64);
  const HeadNorms norms{random_parameter({12}, 1), random_parameter({12}, 2), 1e-5f};
  const at::Tensor qkv = random_tensor({tokens, shape.row()}, 3), direction = random_tensor({tokens, shape.heads * 12}, 4);

  at::Tensor rqkv = reference_copy(qkv), rq = reference_copy(norms.query->value), rk = reference_copy(norms.key->value);
  const at::Tensor x = rqkv.slice(1, 0, heads * 12).reshape({tokens, heads, 12});
  const at::Tensor w = at::cat({rq.expand({shape.heads, 12}), rk.expand({shape.key_value_heads, 12})}, 0);
  const at::Tensor normed = x * (x.pow(2).mean(-1, true) + 1e-5).rsqrt() * w;
  const at::Tensor expected = reference(at::cat({normed.flatten(1), rqkv.slice(1, heads * 12)}, 1), shape, segments, positions, table);
  (expected * direction.to(at::kDouble)).sum().backward();

  at::Tensor leaf = qkv.clone().requires_grad_(true);
  const at::Tensor out = attention(leaf * 1.0, shape, segments, positions, table, norms);
  (out * direction).sum().backward();
  expect_close(out.detach(), expected.detach(), 2e-5, "output");
  expect_close(leaf.grad(), rqkv.grad(), 2e-5, "gradient");
  expect_close(norms.query->gradient, rq.grad(), 2e-5, "gradient of the query norm");
  expect_close(norms.key->gradient, rk.grad(), 2e-5, "gradient of the key norm");
}

}  // namespace
}  // namespace tessera::kernels
