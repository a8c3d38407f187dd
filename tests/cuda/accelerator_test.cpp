// What kernels of our own compute against their twin in tensor operations on the CPU, which tests/kernels and tests/model hold against the CPU's
// own kernels: on a GPU, or with TESSERA_EMULATED on a CPU that plays one. Skipped where neither is.
#include <gtest/gtest.h>
#include <torch/torch.h>

#ifdef TESSERA_EMULATED
#include "kernels/cuda/kernel_accelerator.h"
#else
#include "kernels/cuda/accelerator.h"
#endif
#include "kernels/attention.h"
#include "tests/kernels/hard_numbers.h"

namespace tessera::kernels {
namespace {

using Tensors = std::vector<at::Tensor>;

#ifdef TESSERA_EMULATED
const at::Device kDevice(at::kCPU);
const Accelerator& device_under_test() {
  static const cuda::KernelAccelerator emulated(at::kCPU);
  return emulated;
}
#else
const at::Device kDevice(at::kCUDA);
const Accelerator& device_under_test() { return cuda::accelerator(); }
#endif

/// A function over an accelerator and the device that its tensors lie on.
class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    if (kDevice.is_cuda() && !torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  }

  at::Tensor random(std::vector<int64_t> shape, at::ScalarType type = at::kFloat) {
    auto generator = at::detail::createCPUGenerator(++seed_);
    return at::randn(shape, generator, at::kFloat).to(type);
  }
  at::Tensor integers(int64_t below, std::vector<int64_t> shape, at::ScalarType type = at::kInt) {
    auto generator = at::detail::createCPUGenerator(++seed_);
    return at::randint(below, shape, generator, at::TensorOptions(type));
  }

  /// body(accelerator, there), which makes copies of CPU tensors with there(x), on both; results within `tolerance` of their norm.
  template <typename Body>
  void compare(const std::string& what, double tolerance, const Body& body) {
    const TensorAccelerator twin(at::kCPU);
    const Tensors expected = body(static_cast<const Accelerator&>(twin), [](const at::Tensor& x) { return x.clone(); });
    const Tensors actual = body(device_under_test(), [](const at::Tensor& x) { return x.to(kDevice, /*non_blocking=*/false, /*copy=*/true); });
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
    for (const auto& [heads, dim] : {std::pair<int64_t, int64_t>{6, 128}, {3, 20}, {1, 1100}}) {  // the last columns of wider rows
      const at::Tensor x = random({37, 8 + heads * dim}, type), d = random({37, 8 + heads * dim}, type), w = random({dim}, type);
      compare("norm_heads", tolerance(type), [&, dim = dim](const Accelerator& device, const auto& there) {
        const at::Tensor y = there(x), dx = there(d), dw = there(at::zeros({dim}));
        device.norm_heads(columns_from(y, 8), there(w), 1e-6f);
        device.norm_heads_backward(columns_from(dx, 8), columns_from(there(x), 8), there(w), 1e-6f, dw);
        return Tensors{y, dx, dw};
      });
    }
  }
}

TEST_F(Gpu, SwigluAndEmbedding) {
  for (const at::ScalarType type : kTypes) {
    for (const int64_t width : {352, 33}) {
      const at::Tensor gates = random({129, 2 * width}, type), d = random({129, width}, type);
      compare("swiglu", tolerance(type), [&](const Accelerator& device, const auto& there) {
        return Tensors{device.swiglu(there(gates)), device.swiglu_backward(there(d), there(gates))};
      });
    }
    const at::Tensor table = random({500, 96}, type), dy = random({300, 96}, type), ids = integers(40, {300});  // each several times
    compare("embedding", tolerance(type), [&](const Accelerator& device, const auto& there) {
      const at::Tensor gradient = there(at::ones({500, 96}));
      device.embedding_backward(there(dy), there(ids), gradient);
      return Tensors{device.embedding(there(ids), there(table)), gradient};
    });
  }
}

#ifndef TESSERA_EMULATED  // libraries have these
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
#endif

TEST_F(Gpu, Rotations) {
  const RopeTable rope = make_rope_table({1.0, 0.3, 0.1, 0.03}, 50);
  const at::Tensor positions = integers(50, {33});
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

#ifndef TESSERA_EMULATED
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
#endif

TEST_F(Gpu, ChoicesOfExperts) {
  for (const auto& [experts, choices, groups, kept] : {std::array<int64_t, 4>{32, 4, 4, 2}, {256, 8, 8, 4}, {8, 2, 1, 1}, {60, 6, 1, 1}, {1024, 1, 32, 3}, {3, 3, 1, 1}})
    for (const bool by_maximum : {false, true}) {
      const at::Tensor scores = random({77, experts}).sigmoid().mul(50).round().div(50), bias = random({experts}).mul(5).round().mul(0.02);  // many are equal
      for (const bool biased : {false, true}) {
        const ExpertChoice rules{experts, choices, groups, kept, by_maximum};
        const auto choose = [&](const Accelerator& device, const auto& there) { return device.choose_experts(there(scores), biased ? there(bias) : at::Tensor(), rules); };
        compare("choices among " + std::to_string(experts), 0, [&](const Accelerator& device, const auto& there) { return Tensors{choose(device, there)}; });
      }
    }
  // Nonsense is chosen too, but from what there is.
  const at::Tensor broken = at::full({5, 8}, NAN).to(kDevice), chosen = device_under_test().choose_experts(broken, {}, {8, 3, 2, 1}).cpu();
  EXPECT_TRUE(at::logical_and(chosen.ge(0), chosen.lt(8)).all().item<bool>());
}

TEST_F(Gpu, SortsByExpert) {
  for (const auto& [tokens, experts, choices] : {std::array<int64_t, 3>{1, 1, 1}, {300, 32, 4}, {2000, 256, 8}, {1000, 1024, 3}, {511, 7, 1}, {0, 4, 2}}) {
    at::Tensor chosen = integers(experts, {tokens, choices});
    if (tokens > 500) chosen.masked_fill_(chosen.eq(experts / 2), 0);  // one without rows
    compare("sorting", 0, [&, experts = experts](const Accelerator& device, const auto& there) {
      RowGroups groups;
      const RowMapPtr map = device.sort_by_expert(there(chosen), experts, groups);
      return Tensors{groups.device_offsets, map->device_row_of, map->device_slot_of};
    });
  }
}

TEST_F(Gpu, Experts) {
  for (const at::ScalarType type : kTypes)
    for (const int64_t dim : {64, 30, 1160}) {
      const at::Tensor chosen = integers(32, {300, 4}), weights = random({300, 4}).sigmoid(), x = random({300, dim}, type), up = random({32 * 48, dim}, type);
      const at::Tensor base = random({300, 48}, type), dy = random({300, 48}, type), wide_rows = random({1200, dim}, type);
      compare("experts", type == at::kFloat ? 1e-4 : 0.02, [&](const Accelerator& device, const auto& there) {
        RowGroups groups;
        const RowMapPtr map = device.sort_by_expert(there(chosen), 32, groups);
        const at::Tensor rows = device.gather_rows(there(x), *map), made = device.grouped_product(rows, there(up), Transpose::kYes, groups), y = there(base);
        device.add_sums(made, *map, there(weights), y);
        const at::Tensor unweighted = there(x);
        device.add_sums(rows, *map, {}, unweighted);
        const at::Tensor d_rows = at::empty_like(made), d_weights = there(at::full({300, 4}, NAN)), gradient = there(at::ones({32 * 48, dim}));
        device.sums_backward(there(dy), made, there(weights), *map, d_rows, d_weights);
        device.add_grouped_gradient(d_rows, rows, groups, gradient);
        const at::Tensor d_wide = at::empty_like(rows), d_weights_wide = there(at::zeros({300, 4}));
        device.sums_backward(there(x), there(wide_rows), there(weights), *map, d_wide, d_weights_wide);
        return Tensors{rows, made, y, unweighted, d_rows, d_weights, gradient, device.grouped_product(d_rows, there(up), Transpose::kNo, groups), d_wide,
                       d_weights_wide, device.gather_rows(there(weights), *map), device.gather_rows(there(x.narrow(1, 0, 7)), *map)};
      });
    }
  // Choices without a row.
  compare("some rows", 1e-5, [&](const Accelerator& device, const auto& there) {
    RowMap map;
    map.tokens = 4;
    map.choices = 2;
    map.device_row_of = there(torch::tensor({0, -1, -1, -1, 2, 1, -1, 3}, at::kInt).view({4, 2}));
    map.device_slot_of = there(torch::tensor({0, 5, 4, 7}, at::kInt));
    const at::Tensor rows = there(at::arange(40.0f).view({4, 10})), weights = there(at::arange(8.0f).view({4, 2})), y = there(at::ones({4, 10}));
    device.add_sums(rows, map, weights, y);
    const at::Tensor d_rows = at::empty_like(rows), d_weights = there(at::full({4, 2}, NAN));
    device.sums_backward(y, rows, weights, map, d_rows, d_weights);
    return Tensors{y, d_rows, d_weights, device.gather_rows(y, map)};
  });
}

TEST_F(Gpu, Losses) {
  for (const at::ScalarType type : kTypes)
    for (const int64_t vocabulary : {1003, 4096, 3}) {
      const at::Tensor logits = random({65, vocabulary}).mul(5).to(type), weights = random({65}), rows = random({65, 40}, type), base = random({30, 40}, type);
      const at::Tensor ids = integers(vocabulary, {65}), places = integers(30, {65}, at::kLong);
      compare("losses", tolerance(type), [&](const Accelerator& device, const auto& there) {
        const at::Tensor gradient = there(logits), log_probs = there(at::zeros({65})), softmax = there(at::zeros({65, 5})), second = there(logits), sum = there(base);
        const at::Tensor untouched = there(logits), again = there(at::zeros({65})), in_float = there(at::ones({30, 40}));
        device.cross_entropy(gradient, there(ids), there(weights), true, log_probs);
        device.cross_entropy(untouched, there(ids), there(weights), false, again);
        device.softmax_rows(there(logits), there(ids), 1.25f, softmax);
        device.softmax_gradient(second, there(ids), there(weights), 1.25f, softmax);
        device.add_rows(there(rows), there(places), sum);
        device.embedding_backward(there(rows), there(places.to(at::kInt)), in_float);
        return Tensors{gradient, log_probs, softmax.slice(1, 3), second, sum, untouched, again, in_float};
      });
    }
  // What is broken shows, and what is merely huge does not break.
  at::Tensor odd = at::zeros({4, 300});
  odd[0][7] = NAN;
  odd[1].fill_(-1e30);
  odd[1][3] = 1e30;
  odd[2].fill_(-std::numeric_limits<float>::infinity());
  odd[2][299] = 0;
  const at::Tensor there = odd.to(kDevice), log_probs = at::zeros({4}, there.options());
  device_under_test().cross_entropy(there, torch::tensor({1, 3, 299, 0}, at::kInt).to(kDevice), {}, false, log_probs);
  const at::Tensor result = log_probs.cpu();
  EXPECT_TRUE(std::isnan(result[0].item<float>()));
  EXPECT_EQ(result[1].item<float>(), 0);
  EXPECT_EQ(result[2].item<float>(), 0);
  EXPECT_NEAR(result[3].item<float>(), -std::log(300.0), 1e-5);
}

TEST_F(Gpu, Generation) {
  struct Case {
    int64_t heads, kv_heads, head_dim, value_dim, stride, values_begin;
  };
  for (const at::ScalarType type : kTypes)
    for (const Case& c : {Case{8, 2, 64, 64, 256, 128}, {3, 3, 20, 20, 121, 60}, {12, 1, 72, 64, 72, 0}, {1, 1, 576, 512, 576, 0}, {4, 2, 700, 700, 2800, 1400}}) {
      const at::Tensor q = random({3, c.heads, c.head_dim}, type), pages = random({4, 16, c.stride}, type), rows = random({4, c.stride + 9}, type);
      compare("a cache of heads of " + std::to_string(c.head_dim), tolerance(type), [&](const Accelerator& device, const auto& there) {
        const at::Tensor cache = there(pages), made = there(rows);
        const auto address = [&](int64_t page, int64_t row) { return static_cast<void*>(cache[page][row].data_ptr()); };
        device.store_rows(made.narrow(1, 0, c.stride - 2), {address(0, 0), address(1, 15), address(3, 7), address(0, 1)}, 2);
        const CachedRows cached{.runs = {{address(0, 0), 16}, {address(2, 0), 5}, {address(1, 3), 1}, {address(3, 0), 16}, {address(1, 0), 16}, {address(0, 0), 7}},
                                .first_run = {0, 2, 3, 6}, .stride = c.stride, .values_begin = c.values_begin};
        const AttentionShape shape{c.heads, c.kv_heads, c.head_dim, 0.2f};
        return Tensors{cache, device.attend_cached(there(q), shape, c.value_dim, cached)};
      });
    }
  for (const at::ScalarType type : kTypes)
    for (const int64_t vocabulary : {2, 100, 5003}) {
      const at::Tensor logits = random({40, vocabulary}).mul(3).to(type);
      at::Tensor uniforms = random({40}, at::kDouble).abs().fmod(1.0);
      uniforms[0] = 0.0;
      uniforms[1] = 1.0 - 1e-16;
      for (const bool greedy : {false, true})
        compare("draws among " + std::to_string(vocabulary), 1e-5, [&](const Accelerator& device, const auto& there) {
          return Tensors{device.draw_tokens(there(logits), there(uniforms), 1.25, greedy)};
        });
    }
  at::Tensor equal = at::zeros({2, 600});
  equal.narrow(1, 300, 300).fill_(2.0);
  EXPECT_EQ(device_under_test().draw_tokens(equal.to(kDevice), at::zeros({2}, at::kDouble).to(kDevice), 1.0, true).cpu()[0][0].item<double>(), 300);
}

/// All NaN are alike.
void expect_same_numbers(const at::Tensor& codes, const at::Tensor& expected, const std::string& what) {
  const at::Tensor a = codes.cpu().to(at::kFloat), e = expected.to(at::kFloat);
  ASSERT_EQ(a.sizes(), e.sizes()) << what;
  EXPECT_TRUE(at::logical_or(at::logical_and(a.eq(e), a.signbit().eq(e.signbit())), at::logical_and(a.isnan(), e.isnan())).all().item<bool>()) << what;
}

TEST_F(Gpu, QuantisesToTheSameBits) {
  uint64_t seed = 0;
  const TensorAccelerator twin(at::kCPU);
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 300}, {257, 129}, {128, 256}, {130, 33}})
    for (const fp8::Format format : {fp8::Format::kE4m3, fp8::Format::kE5m2})
      for (const fp8::Tile tile : {fp8::Tile{1, 128}, {128, 1}, {128, 128}, {}})
        for (const bool powers : {false, true})
          for (const at::ScalarType type : kTypes)
            for (const bool transposed : {false, true}) {
              const at::Tensor x = fp8::hard_numbers(rows, columns, ++seed).to(type);
              const fp8::Scheme scheme{format, tile, powers};
              const auto expected = twin.quantize(x, scheme, transposed), actual = device_under_test().quantize(x.to(kDevice), scheme, transposed);
              EXPECT_TRUE(actual.scales.cpu().equal(expected.scales)) << seed;
              expect_same_numbers(actual.codes, expected.codes, std::to_string(seed));
              const fp8::Scheme laid = transposed ? scheme.transposed() : scheme;
              expect_same_numbers(device_under_test().dequantize(actual, laid, type), twin.dequantize(expected, laid, type), "back " + std::to_string(seed));
            }
  for (const int64_t matrices : {1, 3})
    for (const bool transposed : {false, true}) {
      const fp8::Scheme blocks{fp8::Format::kE4m3, {128, 128}};
      const at::Tensor x = fp8::hard_numbers(matrices * 140, 300, ++seed);
      const auto expected = twin.quantize_stack(x, blocks, matrices, transposed), actual = device_under_test().quantize_stack(x.to(kDevice), blocks, matrices, transposed);
      EXPECT_TRUE(actual.scales.cpu().equal(expected.scales)) << matrices;
      expect_same_numbers(actual.codes, expected.codes, "stack");
    }
}

TEST_F(Gpu, FusedQuantisersHaveTheSameBits) {
  const auto expect_same = [](const fp8::Quantized& actual, const fp8::Quantized& expected, const std::string& what) {
    EXPECT_TRUE(actual.scales.cpu().equal(expected.scales.cpu())) << what;
    expect_same_numbers(actual.codes, expected.codes.cpu(), what);
  };
  const auto& device = device_under_test();
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 8}, {5, 300}, {3, 129}, {66, 256}, {9, 2056}})
    for (const at::ScalarType type : kTypes)
      for (const fp8::Tile tile : {fp8::Tile{1, 128}, {}})
        for (const bool powers : {false, true}) {
          const std::string what = std::to_string(rows) + " x " + std::to_string(columns);
          const fp8::Scheme scheme{fp8::Format::kE4m3, tile, powers};
          const at::Tensor x = random({rows, columns}, type).to(kDevice), w = random({columns}).to(kDevice), d = random({rows, columns}, type).to(kDevice);
          at::Tensor rstd, expected_rstd;
          expect_same(device.quantize_norm(x, w, 1e-5f, scheme, &rstd), device.quantize(device.rms_norm(x, w, 1e-5f, &expected_rstd), scheme, false), "norm " + what);
          EXPECT_TRUE(rstd.equal(expected_rstd)) << what;
          const at::Tensor gates = fp8::hard_numbers(rows, 2 * columns, static_cast<uint64_t>(columns)).to(type).to(kDevice);
          const auto fused = device.quantize_swiglu(gates, scheme);
          expect_same(fused.product, device.quantize(device.swiglu(gates), scheme, false), "product " + what);
          expect_same(fused.gate_up, device.quantize(gates.view({2 * rows, columns}), scheme, false), "gates " + what);
          const at::Tensor again = device.dequantize(fused.gate_up, scheme, type).view({rows, 2 * columns});
          expect_same_numbers(device.swiglu_of_codes(fused.gate_up, scheme, type), device.swiglu(again).cpu(), "again " + what);
          expect_same_numbers(device.swiglu_backward_of_codes(d, fused.gate_up, scheme), device.swiglu_backward(d, again).cpu(), "backward " + what);
        }
}

TEST_F(Gpu, ProductsInFp8) {
  const fp8::Scheme rows{fp8::Format::kE4m3, {1, 128}}, blocks{fp8::Format::kE4m3, {128, 128}}, tokens{fp8::Format::kE4m3, {128, 1}};
  const at::Tensor u = random({200, 336}, at::kBFloat16), w = random({272, 336}, at::kBFloat16), dy = random({200, 272}, at::kBFloat16);
  const at::Tensor stack = random({5 * 272, 336}, at::kBFloat16);
  compare("products", 0.01, [&](const Accelerator& device, const auto& there) {
    const auto qu = device.quantize(there(u), rows, false);
    RowGroups groups({0, 30, 30, 31, 160, 200});
    groups.copy_to(device);
    const at::Tensor gradient = there(at::ones({5 * 272, 336}));
    device.add_grouped_scaled_gradient(there(dy), tokens, there(u), tokens, groups, gradient);
    return Tensors{gradient, device.scaled_product(qu, rows, device.quantize(there(w), blocks, false), blocks, at::kBFloat16),
                   device.scaled_product(device.quantize(there(dy), rows, false), rows, device.quantize(there(w), blocks, true), blocks, at::kBFloat16),
                   device.scaled_product(device.quantize(there(dy), tokens, true), rows, device.quantize(there(u), tokens, true), rows, at::kFloat),
                   device.grouped_scaled_product(qu, rows, device.quantize_stack(there(stack), blocks, 5, false), blocks, groups, at::kBFloat16)};
  });
}

TEST_F(Gpu, Updates) {
  // More tensors than one launch takes, some not at multiples of 16 bytes, one of nothing.
  std::vector<std::pair<int64_t, int64_t>> runs;
  int64_t total = 0;
  for (int64_t i = 0; i < 70; ++i) {
    const int64_t count = i == 5 ? 0 : i == 6 ? 40001 : 4 * i + (i % 3 == 0 ? 1 : 0);
    runs.emplace_back(total, count);
    total += count;
  }
  const at::Tensor weight = random({total}), gradient = random({total});
  for (const at::ScalarType type : kTypes)
    for (const bool stochastic : {false, true}) {
      if (stochastic && type == at::kFloat) continue;
      const at::Tensor m = random({total}).mul(0.1).to(type), v = random({total}).square().to(type);
      compare("adamw", type == at::kFloat ? 1e-6 : 1e-4, [&](const Accelerator& device, const auto& there) {
        const at::Tensor w = there(weight), g = there(gradient), exp_avg = there(m), exp_avg_sq = there(v);
        std::vector<AdamWUpdate> updates;
        Tensors parts;
        for (const auto& [begin, count] : runs) {
          const auto part = [&, begin = begin, count = count](const at::Tensor& x) { return x.narrow(0, begin, count); };
          AdamWUpdate update{part(w), part(g), {part(exp_avg), part(exp_avg_sq), {}}, begin % 2 == 0 ? 0.1 : 0.0};
          if (stochastic) update.moments.noise = {0x123456789ABCDEF, (int64_t{1} << 32) - 100 + begin};
          updates.push_back(update);
          parts.push_back(update.gradient);
        }
        device.adamw(updates, {.lr = 1e-2, .step = 3, .gradient_scale = 0.7});
        return Tensors{w, exp_avg, exp_avg_sq, device.sum_of_squares(parts).reshape({1})};
      });
    }
}

}  // namespace
}  // namespace tessera::kernels
