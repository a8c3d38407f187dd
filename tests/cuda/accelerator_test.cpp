// What a GPU computes against its twin in tensor operations on the CPU, which tests/kernels and tests/model hold against the CPU's own kernels.
// Skipped where there is no GPU.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "kernels/cuda/accelerator.h"
#include "tests/kernels/hard_numbers.h"

namespace tessera::kernels {
namespace {

using Tensors = std::vector<at::Tensor>;

/// A function over an accelerator and the device that its tensors lie on.
class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  }

  at::Tensor random(std::vector<int64_t> shape, at::ScalarType type = at::kFloat) {
    auto generator = at::detail::createCPUGenerator(++seed_);
    return at::randn(shape, generator, at::kFloat).to(type);
  }

  /// body(accelerator, there), which makes copies of CPU tensors with there(x), on both; results within `tolerance` of their norm.
  template <typename Body>
  void compare(const char* what, double tolerance, const Body& body) {
    const TensorAccelerator twin(at::kCPU);
    const Tensors expected = body(static_cast<const Accelerator&>(twin), [](const at::Tensor& x) { return x.clone(); });
    const Tensors actual = body(cuda::accelerator(), [](const at::Tensor& x) { return x.to(at::kCUDA, /*non_blocking=*/false, /*copy=*/true); });
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      const at::Tensor a = actual[i].cpu().to(at::kDouble), e = expected[i].to(at::kDouble);
      ASSERT_EQ(a.sizes(), e.sizes()) << what << " " << i;
      EXPECT_LE((a - e).norm().item<double>(), tolerance * e.norm().item<double>()) << what << ", result " << i;
    }
  }

  static double tolerance(at::ScalarType type) { return type == at::kFloat ? 1e-5 : 0.01; }

 private:
  uint64_t seed_ = 0;
};

constexpr std::array kTypes = {at::kFloat, at::kBFloat16};

TEST_F(Gpu, Norms) {
  for (const at::ScalarType type : kTypes)
    for (const auto& [rows, dim] : {std::pair<int64_t, int64_t>{1, 8}, {7, 300}, {257, 4096}, {64, 7168}}) {
      const at::Tensor x = random({rows, dim}, type), w = random({dim}, type), dy = random({rows, dim}, type), sum = random({dim});
      compare("rms_norm", tolerance(type), [&](const Accelerator& device, const auto& there) {
        at::Tensor rstd;
        const at::Tensor y = device.rms_norm(there(x), there(w), 1e-5f, &rstd), dw = there(sum);
        const at::Tensor dx = device.rms_norm_backward(there(dy), there(x), there(w), rstd, dw);
        return Tensors{y, rstd, dx, dw};
      });
    }
  for (const at::ScalarType type : kTypes) {
    const at::Tensor x = random({37, 6 * 128}, type), d = random({37, 6 * 128}, type), w = random({128}, type);
    compare("norm_heads", tolerance(type), [&](const Accelerator& device, const auto& there) {
      const at::Tensor y = there(x), dx = there(d), dw = there(at::zeros({128}));
      device.norm_heads(y, there(w), 1e-6f);
      device.norm_heads_backward(dx, there(x), there(w), 1e-6f, dw);
      return Tensors{y, dx, dw};
    });
  }
}

TEST_F(Gpu, SwigluAndEmbedding) {
  for (const at::ScalarType type : kTypes) {
    const at::Tensor gates = random({129, 2 * 352}, type), d = random({129, 352}, type), table = random({500, 96}, type), dy = random({300, 96}, type);
    const at::Tensor ids = at::randint(0, 500, {300}, at::kInt);
    compare("swiglu", tolerance(type), [&](const Accelerator& device, const auto& there) {
      return Tensors{device.swiglu(there(gates)), device.swiglu_backward(there(d), there(gates))};
    });
    compare("embedding", tolerance(type), [&](const Accelerator& device, const auto& there) {
      const at::Tensor gradient = there(at::ones({500, 96}));
      device.embedding_backward(there(dy), there(ids), gradient);
      return Tensors{device.embedding(there(ids), there(table)), gradient};
    });
  }
}

TEST_F(Gpu, Products) {
  for (const at::ScalarType type : kTypes)
    for (const at::ScalarType result : kTypes)
      for (const bool ta : {false, true})
        for (const bool tb : {false, true}) {
          const at::Tensor a = ta ? random({96, 40}, type) : random({40, 96}, type), b = tb ? random({72, 96}, type) : random({96, 72}, type);
          const at::Tensor c = random({40, 72}, result);
          compare("gemm", result == at::kFloat && type == at::kFloat ? 1e-4 : 0.01, [&](const Accelerator& device, const auto& there) {
            const at::Tensor sum = there(c), fresh = there(c);
            const auto transpose = [](bool yes) { return yes ? Transpose::kYes : Transpose::kNo; };
            device.gemm(there(a), transpose(ta), there(b), transpose(tb), sum, 0.5, 1.0);
            device.gemm(there(a), transpose(ta), there(b), transpose(tb), fresh, 1.0, 0.0);
            return Tensors{sum, fresh};
          });
        }
}

TEST_F(Gpu, Rotations) {
  const RopeTable rope = make_rope_table({1.0, 0.3, 0.1, 0.03}, 50);
  const at::Tensor positions = at::randint(0, 50, {33}, at::kInt);
  for (const at::ScalarType type : kTypes)
    for (const RopePairs pairs : {RopePairs::kHalves, RopePairs::kNeighbours})
      for (const bool inverse : {false, true}) {
        const at::Tensor x = random({33, 3 * 12 + 4}, type);
        compare("rotate_heads", tolerance(type), [&](const Accelerator& device, const auto& there) {
          const at::Tensor y = there(x);
          device.rotate_heads(columns_from(y, 4), 3, 12, 8, pairs, there(positions), {there(rope.cos), there(rope.sin)}, inverse);
          return Tensors{y};
        });
      }
}

TEST_F(Gpu, Attention) {
  const std::vector<Segment> documents = {{0, 70, 0, -1}, {70, 1, 0, -1}, {71, 129, 0, -1}}, tree = {{0, 70, 0, -1}, {70, 60, 70, 0}, {130, 70, 70, 0}};
  struct Case {
    const char* name;
    HeadLayout layout;
    int64_t q, k, shared, v;  // columns
    bool in_kv;               // values lie behind keys in one matrix
  };
  const std::vector<Case> cases = {{"grouped heads", {4, 2, 64, 0, 64, 64, 64, 0.125f}, 256, 128, 0, 128, false},
                                   {"latent", {4, 4, 128, 64, 128, 256, 256, 0.07f}, 768, 1024, 64, 1024, true}};
  for (const at::ScalarType type : kTypes)
    for (const auto* segments : {&documents, &tree})
      for (const Case& c : cases) {
        const int64_t tokens = 200;
        const at::Tensor q = random({tokens, c.q}, type), k = random({tokens, c.k}, type), v = random({tokens, c.v}, type), shared = random({tokens, std::max<int64_t>(c.shared, 1)}, type);
        const at::Tensor d_out = random({tokens, c.layout.heads * c.layout.value_dim}, type);
        compare(c.name, type == at::kFloat ? 1e-4 : 0.02, [&](const Accelerator& device, const auto& there) {
          const auto operands = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& shared, const at::Tensor& v) {
            return c.in_kv ? Operands{q, k, shared, columns_from(k, c.layout.key_dim)} : Operands{q, k, {}, v};
          };
          const at::Tensor out = there(at::zeros({tokens, c.layout.heads * c.layout.value_dim}, type)), lse = there(at::zeros({c.layout.heads, tokens}));
          const auto plan = plan_segments(*segments, tokens);
          const Operands x = operands(there(q), there(k), there(shared), there(v));
          device.attend(c.layout, x, *plan, out, lse);
          const at::Tensor dq = there(at::zeros_like(q)), dk = there(at::zeros_like(k)), dv = there(at::zeros_like(v));
          const at::Tensor ds = there(at::zeros({c.layout.heads, tokens, std::max<int64_t>(c.shared, 1)}, type));
          device.attend_backward(c.layout, x, *plan, out, lse, there(d_out), operands(dq, dk, ds, dv));
          return c.in_kv ? Tensors{out, lse, dq, dk, ds} : Tensors{out, lse, dq, dk, dv};
        });
      }
}

TEST_F(Gpu, Experts) {
  const ExpertChoice rules{.experts = 32, .choices = 4, .groups = 4, .kept_groups = 2};
  const at::Tensor scores = random({300, 32}).sigmoid(), bias = random({32}).mul(0.1), weights = random({300, 4}).sigmoid();
  for (const at::ScalarType type : kTypes) {
    const at::Tensor x = random({300, 64}, type), up = random({32 * 48, 64}, type), base = random({300, 48}, type), dy = random({300, 48}, type);
    compare("experts", type == at::kFloat ? 1e-4 : 0.02, [&](const Accelerator& device, const auto& there) {
      const at::Tensor chosen = device.choose_experts(there(scores), there(bias), rules);
      RowGroups groups;
      const RowMapPtr map = device.sort_by_expert(chosen, 32, groups);
      const at::Tensor rows = device.gather_rows(there(x), *map), made = device.grouped_product(rows, there(up), Transpose::kYes, groups), y = there(base);
      device.add_sums(made, *map, there(weights), y);
      const at::Tensor d_rows = at::empty_like(made), d_weights = there(at::zeros({300, 4})), gradient = there(at::ones({32 * 48, 64}));
      device.sums_backward(there(dy), made, there(weights), *map, d_rows, d_weights);
      device.add_grouped_gradient(d_rows, rows, groups, gradient);
      return Tensors{chosen, groups.device_offsets, map->device_row_of, map->device_slot_of, rows, made, y, d_rows, d_weights, gradient,
                     device.grouped_product(d_rows, there(up), Transpose::kNo, groups)};
    });
  }
}

TEST_F(Gpu, Losses) {
  for (const at::ScalarType type : kTypes) {
    const at::Tensor logits = random({65, 1003}, type), weights = random({65}), rows = random({65, 40}, type), base = random({30, 40}, type);
    const at::Tensor ids = at::randint(0, 1003, {65}, at::kInt), places = at::randint(0, 30, {65}, at::kLong);
    compare("losses", tolerance(type), [&](const Accelerator& device, const auto& there) {
      const at::Tensor gradient = there(logits), log_probs = there(at::zeros({65})), softmax = there(at::zeros({65, 5})), second = there(logits), sum = there(base);
      device.cross_entropy(gradient, there(ids), there(weights), true, log_probs);
      device.softmax_rows(there(logits), there(ids), 1.25f, softmax);
      device.softmax_gradient(second, there(ids), there(weights), 1.25f, softmax);
      device.add_rows(there(rows), there(places), sum);
      return Tensors{gradient, log_probs, softmax.slice(1, 3), second, sum};
    });
  }
}

TEST_F(Gpu, QuantisesToTheSameBits) {
  uint64_t seed = 0;
  for (const fp8::Format format : {fp8::Format::kE4m3, fp8::Format::kE5m2})
    for (const fp8::Tile tile : {fp8::Tile{1, 128}, {128, 1}, {128, 128}, {}})
      for (const bool powers : {false, true})
        for (const bool transposed : {false, true}) {
          const at::Tensor x = fp8::hard_numbers(257, 300, ++seed);
          const fp8::Scheme scheme{format, tile, powers};
          const TensorAccelerator twin(at::kCPU);
          const auto expected = twin.quantize(x, scheme, transposed), actual = cuda::accelerator().quantize(x.to(at::kCUDA), scheme, transposed);
          EXPECT_TRUE(actual.scales.cpu().equal(expected.scales)) << seed;
          const at::Tensor a = actual.codes.cpu().to(at::kFloat), e = expected.codes.to(at::kFloat);  // all NaN are alike
          EXPECT_TRUE(at::logical_or(a.eq(e), at::logical_and(a.isnan(), e.isnan())).all().item<bool>()) << seed;
        }
}

TEST_F(Gpu, ProductsInFp8) {
  const fp8::Scheme rows{fp8::Format::kE4m3, {1, 128}}, blocks{fp8::Format::kE4m3, {128, 128}}, tokens{fp8::Format::kE4m3, {128, 1}};
  const at::Tensor u = random({200, 336}, at::kBFloat16), w = random({272, 336}, at::kBFloat16), dy = random({200, 272}, at::kBFloat16);
  const at::Tensor stack = random({5 * 272, 336}, at::kBFloat16);
  compare("products", 0.01, [&](const Accelerator& device, const auto& there) {
    const auto qu = device.quantize(there(u), rows, false);
    RowGroups groups({0, 30, 30, 31, 130, 200});
    groups.copy_to(device);
    Tensors codes, scales;
    for (int64_t e = 0; e < 5; ++e) {
      const auto one = device.quantize(there(stack).narrow(0, e * 272, 272), blocks, false);
      codes.push_back(one.codes.view(at::kByte));
      scales.push_back(one.scales);
    }
    return Tensors{device.scaled_product(qu, rows, device.quantize(there(w), blocks, false), blocks, at::kBFloat16),
                   device.scaled_product(device.quantize(there(dy), rows, false), rows, device.quantize(there(w), blocks, true), blocks, at::kBFloat16),
                   device.scaled_product(device.quantize(there(dy), tokens, true), rows, device.quantize(there(u), tokens, true), rows, at::kFloat),
                   device.grouped_scaled_product(qu, rows, {at::cat(codes).view(at::kFloat8_e4m3fn), at::cat(scales)}, blocks, groups, at::kBFloat16)};
  });
}

TEST_F(Gpu, Updates) {
  const at::Tensor weight = random({5001}), gradient = random({5001});
  for (const at::ScalarType type : kTypes) {
    const at::Tensor m = random({5001}).mul(0.1).to(type), v = random({5001}).square().to(type);
    const MomentNoise noise{0x123456789ABCDEF, (int64_t{1} << 32) - 100};
    compare("adamw", 1e-5, [&](const Accelerator& device, const auto& there) {
      const at::Tensor w = there(weight), exp_avg = there(m), exp_avg_sq = there(v);
      device.adamw(w, there(gradient), {exp_avg, exp_avg_sq, type == at::kBFloat16 ? &noise : nullptr}, {.lr = 1e-2, .weight_decay = 0.1, .step = 3, .gradient_scale = 0.7});
      return Tensors{w, device.sum_of_squares(there(gradient)).reshape({1})};
    });
  }
}

}  // namespace
}  // namespace tessera::kernels
