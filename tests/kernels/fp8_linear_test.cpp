#include <functional>

#include "fp8_reference.h"
#include "kernels/fp8/operands.h"
#include "kernels/grouped_gemm.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "live_bytes.h"
#include "test_tensors.h"
#include "tests/support/accelerators.h"

namespace tessera::kernels {
namespace {

using fp8::Recipe;
using fp8::Scheme;
using Starts = std::vector<int64_t>;

Recipe recipe_of(const std::string& name, bool power_of_two = false) {
  Recipe recipe = *fp8::find_recipe(name);
  recipe.power_of_two_scales = power_of_two;
  return recipe;
}

/// What a matrix becomes, by the plain quantiser. One tile for all knows no starts.
at::Tensor plain(const at::Tensor& x, const Scheme& scheme, const Starts& tile_starts = {0}) {
  if (!scheme.scaled()) return x.detach().to(at::kBFloat16).to(at::kFloat);
  const Starts starts = scheme.tile.whole() ? Starts{0} : tile_starts;
  const at::Tensor dense = x.detach().contiguous();
  const auto result = fp8::plain_quantize(dense.const_data_ptr<float>(), x.size(0), x.size(1), scheme, starts);
  return at::tensor(result.values).view(x.sizes());
}

at::Tensor plain_gate_up(const at::Tensor& x, const Recipe& recipe) {
  return plain(x.detach().view({2 * x.size(0), x.size(1) / 2}), recipe.activation_by_row()).view(x.sizes());
}

/// c = a b in double.
at::Tensor exact(const at::Tensor& a, const at::Tensor& b) { return a.to(at::kDouble).mm(b.to(at::kDouble)); }

struct Case {
  Prologue prologue;
  const char* recipe;
  bool power_of_two = false;
  int64_t tokens = 300, in = 200, out = 150;
};

class Fp8Linear : public testing::TestWithParam<Case> {};

TEST_P(Fp8Linear, MultipliesWhatThePlainQuantiserMakes) {
  const Case c = GetParam();
  const Recipe recipe = recipe_of(c.recipe, c.power_of_two);
  const Starts starts = {0, 70, 71, 250};
  LinearSpec spec;
  spec.weight = random_parameter({c.out, c.in}, 1, 0.3);
  if (recipe.format == fp8::Format::kBfloat16) {  // weights come rounded
    const at::NoGradGuard no_grad;
    spec.weight->value.copy_(spec.weight->value.to(at::kBFloat16));
  }
  spec.prologue = c.prologue;
  if (c.prologue == Prologue::kRmsNorm) spec.norm = random_parameter({c.in}, 3);
  spec.bias = random_parameter({c.out}, 2);
  spec.fp8 = std::make_shared<fp8::Weight>(recipe);
  at::Tensor x = random_tensor({c.tokens, c.prologue == Prologue::kSwiglu ? 2 * c.in : c.in}, 6).requires_grad_(true);
  at::Tensor residual = random_tensor({c.tokens, c.out}, 7).requires_grad_(true);
  const at::Tensor dy = random_tensor({c.tokens, c.out}, 8);
  const at::Tensor y = linear(x, spec, residual, starts);
  y.backward(dy);

  const at::Tensor xd = x.detach(), w = plain(spec.weight->value, recipe.weight_scheme());
  at::Tensor u = xd, u_again, rstd;
  if (c.prologue == Prologue::kRmsNorm) u = u_again = rms_norm(xd, spec.norm->value.detach(), spec.norm_eps, &rstd);
  if (c.prologue == Prologue::kNone) u_again = plain(u, recipe.activation_by_row());
  if (c.prologue == Prologue::kSwiglu) {
    u = swiglu(xd);
    u_again = swiglu(plain_gate_up(xd, recipe));
  }
  expect_close(y.detach(), exact(plain(u, recipe.activation_by_row()), w.t()) + spec.bias->value.detach() + residual.detach(), 1e-6, "fprop");
  const at::Tensor du = exact(plain(dy, recipe.gradient_by_row()), w).to(at::kFloat);
  at::Tensor dx = du;
  if (c.prologue == Prologue::kRmsNorm) dx = rms_norm_backward(du, xd, spec.norm->value.detach(), rstd, {});
  if (c.prologue == Prologue::kSwiglu) dx = swiglu_backward(du, plain_gate_up(xd, recipe));
  expect_close(x.grad(), dx, 2e-6, "dgrad");
  const bool once = recipe.activation.along == 0 && c.prologue == Prologue::kNone;  // one scale for all serves both ways
  const at::Tensor u_token = once ? u_again : plain(u_again, recipe.activation_by_token(), starts);
  expect_close(spec.weight->gradient, exact(plain(dy, recipe.gradient_by_token(), starts).t(), u_token), 1e-6, "wgrad");
  expect_close(spec.bias->gradient, dy.sum(0), 1e-5, "bias gradient");
  EXPECT_TRUE(residual.grad().equal(dy));
}

INSTANTIATE_TEST_SUITE_P(Recipes, Fp8Linear,
                         testing::Values(Case{Prologue::kNone, "blockwise"}, Case{Prologue::kRmsNorm, "blockwise"}, Case{Prologue::kSwiglu, "blockwise"},
                                         Case{Prologue::kNone, "blockwise", true}, Case{Prologue::kSwiglu, "blockwise", true},
                                         Case{Prologue::kNone, "blockwise_coarse_gradients"}, Case{Prologue::kNone, "tensorwise"}, Case{Prologue::kRmsNorm, "tensorwise"},
                                         Case{Prologue::kSwiglu, "tensorwise"}, Case{Prologue::kNone, "bfloat16"}, Case{Prologue::kRmsNorm, "bfloat16"},
                                         Case{Prologue::kSwiglu, "bfloat16"}),
                         [](const auto& info) {
                           const char* front = info.param.prologue == Prologue::kNone ? "" : info.param.prologue == Prologue::kRmsNorm ? "_rms_norm" : "_swiglu";
                           return std::string(info.param.recipe) + (info.param.power_of_two ? "_power_of_two" : "") + front;
                         });

TEST(Fp8Linear, GroupedExpertsEqualOneLinearAnExpert) {
  for (const char* name : {"blockwise", "tensorwise"}) {
    const Recipe recipe = recipe_of(name);
    const bool whole = recipe.activation.along == 0;
    const Starts offsets = {0, 5, 5, 180, 300};
    constexpr int64_t kExperts = 4, kIn = 150, kOut = 70;
    for (Prologue prologue : {Prologue::kNone, Prologue::kSwiglu}) {
      GroupedLinearSpec spec{random_parameter({kExperts * kOut, kIn}, 1, 0.3), kExperts, prologue, std::make_shared<fp8::Weight>(recipe, kExperts)};
      at::Tensor x = random_tensor({300, prologue == Prologue::kSwiglu ? 2 * kIn : kIn}, 2).requires_grad_(true);
      const at::Tensor dy = random_tensor({300, kOut}, 3), xd = x.detach();
      const at::Tensor y = grouped_linear(x, spec, offsets);
      y.backward(dy);
      const bool gated = prologue == Prologue::kSwiglu;
      const at::Tensor u = plain(gated ? swiglu(xd) : xd, recipe.activation_by_row());
      const at::Tensor again = gated ? swiglu(plain_gate_up(xd, recipe)) : u;
      const at::Tensor u_token = whole && !gated ? again : plain(again, recipe.activation_by_token(), offsets);
      const at::Tensor dy_row = plain(dy, recipe.gradient_by_row()), dy_token = plain(dy, recipe.gradient_by_token(), offsets);
      at::Tensor du = at::empty({300, kIn});
      for (int64_t e = 0; e < kExperts; ++e) {
        const auto part = [&](const at::Tensor& t) { return t.slice(0, offsets[static_cast<size_t>(e)], offsets[static_cast<size_t>(e) + 1]); };
        const at::Tensor w = plain(spec.weight->value.detach().narrow(0, e * kOut, kOut), recipe.weight_scheme());
        expect_close(part(y.detach()), exact(part(u), w.t()), 1e-6, "fprop");
        part(du).copy_(exact(part(dy_row), w));
        expect_close(spec.weight->gradient.narrow(0, e * kOut, kOut), exact(part(dy_token).t(), part(u_token)), 1e-6, "wgrad");
      }
      expect_close(x.grad(), gated ? swiglu_backward(du, plain_gate_up(xd, recipe)) : du, 2e-6, "dgrad");
      at::NoGradGuard no_grad;
      GroupedLinearSpec in_float32 = spec;
      in_float32.fp8 = nullptr;
      for (PassKind kind : {PassKind::kPrefill, PassKind::kDecode})
        EXPECT_TRUE(grouped_linear(xd, spec, offsets, kind).equal(grouped_linear(xd, in_float32, offsets, kind))) << "generation";
    }
  }
}

TEST(Fp8Linear, TheWeightsTwinFollowsTheWeight) {
  LinearSpec spec{.weight = random_parameter({40, 30}, 1), .fp8 = std::make_shared<fp8::Weight>(recipe_of("blockwise"))};
  const at::Tensor x = random_tensor({5, 30}, 2);
  const at::Tensor before = linear(x, spec).detach();
  EXPECT_TRUE(linear(x, spec).equal(before));
  float* raw = spec.weight->value.data_ptr<float>();
  for (int64_t i = 0; i < spec.weight->value.numel(); ++i) raw[i] *= 2.0f;
  ++spec.weight->version;
  EXPECT_TRUE(linear(x, spec).equal(before * 2));
  at::NoGradGuard no_grad;
  spec.weight->value.mul_(0.5);
  EXPECT_TRUE(linear(x, spec).equal(before));
}

TEST(Fp8Linear, FrozenBaseUnderAdapters) {
  LinearSpec spec;
  spec.weight = random_parameter({20, 24}, 1, 0.3);
  spec.weight->gradient = at::Tensor();
  spec.weight->value = spec.weight->value.detach();
  spec.adapters.push_back({random_parameter({4, 24}, 4), random_parameter({8, 4}, 5), 0.5, 6, 14});
  spec.fp8 = std::make_shared<fp8::Weight>(recipe_of("blockwise"));
  at::Tensor x = random_tensor({13, 24}, 6).requires_grad_(true);
  const at::Tensor dy = random_tensor({13, 20}, 8);
  const at::Tensor y = linear(x, spec);
  y.backward(dy);
  const at::Tensor u = plain(x, {fp8::Format::kE4m3, {1, 128}}), w = plain(spec.weight->value, {fp8::Format::kE4m3, {128, 128}});
  const at::Tensor a = spec.adapters[0].a->value.detach(), b = spec.adapters[0].b->value.detach(), low = exact(u, a.t()).to(at::kFloat);
  at::Tensor expected = exact(u, w.t());
  expected.slice(1, 6, 14).add_(exact(low, b.t()), 0.5);
  expect_close(y.detach(), expected, 1e-6, "output");
  const at::Tensor d_low = dy.slice(1, 6, 14).mm(b) * 0.5;
  expect_close(x.grad(), exact(plain(dy, {fp8::Format::kE4m3, {1, 128}}), w) + d_low.mm(a), 1e-6, "input gradient");
  expect_close(spec.adapters[0].a->gradient, d_low.t().mm(u), 1e-5, "A gradient");
  expect_close(spec.adapters[0].b->gradient, dy.slice(1, 6, 14).t().mm(low) * 0.5, 1e-5, "B gradient");
}

/// Largest possible errors of the elements of a matrix that is rounded to E4M3: half a quantum, of normal numbers 2^-4 of the
/// element, of subnormal ones 2^-10 of the scale (docs/guides/fp8.md).
at::Tensor error_bound(const at::Tensor& x, int64_t dim) {
  const int64_t length = x.size(dim), tiles = (length + 127) / 128;
  at::Tensor scales = at::zeros(x.sizes(), at::kDouble);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = t * 128, count = std::min<int64_t>(128, length - begin);
    const at::Tensor tile = x.narrow(dim, begin, count).to(at::kDouble);
    scales.narrow(dim, begin, count).copy_((tile.abs().amax(dim, true) / 448).expand_as(tile));
  }
  return at::maximum(x.to(at::kDouble).abs() * 0x1p-4, scales * 0x1p-10) * (1 + 1e-6);
}

/// Bound of |a' b' - a b| where |a' - a| <= da and |b' - b| <= db, the float32 sum included.
at::Tensor product_bound(const at::Tensor& a, const at::Tensor& da, const at::Tensor& b, const at::Tensor& db) {
  const at::Tensor a0 = a.to(at::kDouble).abs(), b0 = b.to(at::kDouble).abs();
  return a0.mm(db) + da.mm(b0) + da.mm(db) + a0.mm(b0) * (1e-7 * static_cast<double>(a.size(1)));
}

TEST(Fp8Linear, ErrorsStayWithinTheBoundOfTheFormat) {
  for (double spread : {0.0, 3.0}) {
    constexpr int64_t kTokens = 384, kIn = 320, kOut = 256;
    LinearSpec spec{.weight = random_parameter({kOut, kIn}, 1, 0.1), .fp8 = std::make_shared<fp8::Weight>(recipe_of("blockwise"))};
    const auto wide = [&](std::vector<int64_t> shape, int64_t seed) {
      const auto factors = [&](std::vector<int64_t> sizes, int64_t s) { return random_tensor(std::move(sizes), s).mul_(spread).exp_(); };
      return random_tensor(shape, seed).mul_(factors({shape[0], 1}, seed + 10)).mul_(factors({1, shape[1]}, seed + 20));
    };
    at::Tensor x = wide({kTokens, kIn}, 2).requires_grad_(true);
    const at::Tensor dy = wide({kTokens, kOut}, 3), w = spec.weight->value.detach(), xd = x.detach();
    const at::Tensor y = linear(x, spec);
    y.backward(dy);
    at::Tensor dw_bound = at::zeros(w.sizes(), at::kDouble);  // blocks: bounded by the largest of 128 x 128
    for (int64_t r = 0; r < kOut; r += 128)
      for (int64_t c = 0; c < kIn; c += 128) {
        const at::Tensor block = w.slice(0, r, r + 128).slice(1, c, c + 128).to(at::kDouble).abs();
        dw_bound.slice(0, r, r + 128).slice(1, c, c + 128).copy_(at::maximum(block * 0x1p-4, block.max() * (0x1p-10 / 448)) * (1 + 1e-6));
      }
    const auto check = [&](const char* what, const at::Tensor& actual, const at::Tensor& expected, const at::Tensor& bound) {
      const at::Tensor error = (actual.to(at::kDouble) - expected).abs();
      EXPECT_TRUE((error <= bound).all().item<bool>()) << what << ": " << (error / bound).max().item<double>() << " of the bound";
      RecordProperty(std::string(what) + (spread > 0 ? "_wide" : ""), std::to_string((error.norm() / expected.norm()).item<double>()));
    };
    check("fprop", y.detach(), exact(xd, w.t()), product_bound(xd, error_bound(xd, 1), w.t(), dw_bound.t()));
    check("dgrad", x.grad(), exact(dy, w), product_bound(dy, error_bound(dy, 1), w, dw_bound));
    const at::Tensor once = plain(xd, {fp8::Format::kE4m3, {1, 128}});
    const at::Tensor twice = error_bound(xd, 1) + error_bound(once, 0);  // cached by row, then by token
    check("wgrad", spec.weight->gradient, exact(dy.t(), xd), product_bound(dy.t(), error_bound(dy, 0).t(), xd, twice));
  }
}

// An outlier in a channel that the weights do not use: with one scale a tensor it costs the others their digits.
TEST(Fp8Linear, TilesStandOutliersThatOneScaleForAllDoesNot) {
  at::Tensor x = random_tensor({256, 512}, 1), w = random_tensor({128, 512}, 2);
  x.select(1, 17).mul_(1e5);
  w.select(1, 17).zero_();
  const auto error = [&](const char* name) {
    LinearSpec spec{.weight = std::make_shared<Parameter>(), .fp8 = std::make_shared<fp8::Weight>(recipe_of(name))};
    spec.weight->value = w;
    const at::Tensor expected = exact(x, w.t());
    return ((linear(x, spec).to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
  };
  const double tiles = error("blockwise"), tensor = error("tensorwise");
  RecordProperty("blockwise", std::to_string(tiles));
  RecordProperty("tensorwise", std::to_string(tensor));
  EXPECT_LT(tiles, 0.6 * tensor);
}

/// Adapters multiply what the product multiplied, on devices too.
TEST(Fp8Linear, AdaptersOnADeviceAreTheHosts) {
  for (const Prologue prologue : {Prologue::kNone, Prologue::kRmsNorm, Prologue::kSwiglu}) {
    std::vector<at::Tensor> results[2];
    for (int side = 0; side < 2; ++side) {
      std::unique_ptr<test::InPlaceOfTheCpu> device;
      if (side == 1) device = std::make_unique<test::InPlaceOfTheCpu>("operations");
      LinearSpec spec{.weight = random_parameter({211, 150}, 1, 0.3), .prologue = prologue, .fp8 = std::make_shared<fp8::Weight>(recipe_of("blockwise"))};
      spec.weight->gradient = at::Tensor();
      spec.weight->value = spec.weight->value.detach();
      if (prologue == Prologue::kRmsNorm) spec.norm = random_parameter({150}, 3);
      spec.adapters = {{random_parameter({4, 150}, 6), random_parameter({61, 4}, 7), 0.5, 150, 211}, {random_parameter({2, 150}, 8), random_parameter({50, 2}, 9), 2.0, 0, 50}};
      at::Tensor x = random_tensor({40, prologue == Prologue::kSwiglu ? 300 : 150}, 10).requires_grad_(true);
      const at::Tensor y = linear(x, spec);
      y.backward(random_tensor({40, 211}, 11));
      results[side] = {y.detach(), x.grad()};
      for (const LowRankSlice& slice : spec.adapters) results[side].insert(results[side].end(), {slice.a->gradient, slice.b->gradient});
      EXPECT_FALSE(spec.weight->gradient.defined());
    }
    for (size_t i = 0; i < results[0].size(); ++i) expect_close(results[1][i], results[0][i], 1e-5, ("result " + std::to_string(i)).c_str());
  }
}

/// Bytes alive after `forward` of an intermediate x [rows, columns] that are neither x nor y: what is kept for the backward pass.
int64_t kept_bytes(int64_t rows, int64_t columns, const std::function<at::Tensor(const at::Tensor&)>& forward) {
  const LiveBytes& live = LiveBytes::installed();
  const at::Tensor leaf = random_tensor({rows, columns}, 1).requires_grad_(true);
  (void)forward(leaf * 2.0);  // the weights' twins
  const int64_t before = live.now();
  const at::Tensor y = forward(leaf * 2.0);
  return live.now() - before - y.numel() * 4;
}

TEST(Fp8Linear, KeepsHalfOfWhatBfloat16Would) {
  constexpr int64_t kTokens = 512, kIn = 256, kWidth = 384, kExperts = 4;
  const auto twin = [](bool on, int64_t matrices = 1) { return on ? std::make_shared<fp8::Weight>(recipe_of("blockwise"), matrices) : nullptr; };
  std::array<std::array<int64_t, 2>, 3> bytes{};
  for (bool on : {false, true}) {
    const LinearSpec plain_linear{.weight = random_parameter({kWidth, kIn}, 1), .fp8 = twin(on)};
    const LinearSpec gate_up{.weight = random_parameter({2 * kWidth, kIn}, 2), .fp8 = twin(on)};
    const LinearSpec down{.weight = random_parameter({kIn, kWidth}, 3), .prologue = Prologue::kSwiglu, .fp8 = twin(on)};
    const GroupedLinearSpec stack_up{random_parameter({kExperts * 2 * kWidth, kIn}, 4), kExperts, Prologue::kNone, twin(on, kExperts)};
    const GroupedLinearSpec stack_down{random_parameter({kExperts * kIn, kWidth}, 5), kExperts, Prologue::kSwiglu, twin(on, kExperts)};
    const Starts offsets = {0, 100, 230, 230, kTokens};
    bytes[0][on] = kept_bytes(kTokens, kIn, [&](const at::Tensor& x) { return linear(x, plain_linear); });
    bytes[1][on] = kept_bytes(kTokens, kIn, [&](const at::Tensor& x) { return linear(linear(x, gate_up), down); });
    bytes[2][on] = kept_bytes(kTokens, kIn, [&](const at::Tensor& x) { return grouped_linear(grouped_linear(x, stack_up, offsets), stack_down, offsets); });
  }
  const std::array<const char*, 3> names = {"linear", "swiglu_mlp", "experts"};
  EXPECT_EQ(bytes[0][0], kTokens * kIn * 4);
  EXPECT_EQ(bytes[1][0], kTokens * (kIn + 2 * kWidth) * 4);
  for (size_t i = 0; i < names.size(); ++i) {
    const double ratio = static_cast<double>(bytes[i][1]) / (0.5 * static_cast<double>(bytes[i][0]));  // float32 keeps twice bfloat16's
    RecordProperty(names[i], std::to_string(ratio));
    EXPECT_LE(ratio, 0.55) << names[i];
    EXPECT_GE(ratio, 0.5) << names[i];
  }
}

}  // namespace
}  // namespace tessera::kernels
