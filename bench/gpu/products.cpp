#include "bench/gpu/measure.h"

namespace tessera::bench {

namespace {

using kernels::Transpose;
using kernels::fp8::Format;
using kernels::fp8::Scheme;

constexpr Scheme kByRow = {Format::kE4m3, {1, 128}}, kBlocks = {Format::kE4m3, {128, 128}};

std::string teraflops(double products, double seconds) { return number(2 * products / seconds * 1e-12); }

void dense(const Place& place) {
  std::printf("\n### Products, TFLOP/s\n\n");
  row({"M x N x K", "bfloat16, at::mm", "bfloat16, Tessera", "FP8 y = u w^T", "FP8 gradient of u", "FP8 gradient of w", "quantising u"});
  row({"---", "---", "---", "---", "---", "---", "---"});
  using Size = std::array<int64_t, 3>;
  const std::vector<Size> sizes = place.small ? std::vector<Size>{{256, 272, 384}}
                                              : std::vector<Size>{{8192, 8192, 8192}, {8192, 4096, 4096}, {8192, 22016, 4096}, {8192, 4096, 11008},
                                                                  {4096, 7168, 16384}, {4096, 2112, 7168}};
  const auto& device = place.accelerator();
  for (const auto& [m, n, k] : sizes) {
    const at::Tensor u = place.random({m, k}), w = place.random({n, k}), dy = place.random({m, n});
    at::Tensor y = at::empty({m, n}, u.options());
    const double products = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    const auto qu = device.quantize(u, kByRow, false), qw = device.quantize(w, kBlocks, false), qwt = device.quantize(w, kBlocks, true);
    const auto qdy = device.quantize(dy, kByRow, false), qdyt = device.quantize(dy, {Format::kE4m3, {128, 1}}, true),
               qut = device.quantize(u, {Format::kE4m3, {128, 1}}, true);
    const auto rate = [&](const std::function<void()>& call) { return teraflops(products, seconds_of(place, call)); };
    row({std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k), rate([&] { (void)at::mm(u, w.t()); }),
         rate([&] { kernels::gemm(u, Transpose::kNo, w, Transpose::kYes, y); }), rate([&] { (void)device.scaled_product(qu, kByRow, qw, kBlocks, at::kBFloat16); }),
         rate([&] { (void)device.scaled_product(qdy, kByRow, qwt, kBlocks, at::kBFloat16); }),
         rate([&] { (void)device.scaled_product(qdyt, kByRow, qut, kByRow, at::kFloat); }),
         number(static_cast<double>(m * k) * 3 / seconds_of(place, [&] { (void)device.quantize(u, kByRow, false); }) * 1e-9) + " GB/s"});
  }
}

void grouped(const Place& place) {
  std::printf("\n### Grouped products, TFLOP/s; rows dealt to the experts unevenly\n\n");
  row({"rows x out x in, experts", "a loop of at::mm", "grouped, bfloat16", "gradient of u", "gradient of w"});
  row({"---", "---", "---", "---", "---"});
  struct Size {
    int64_t rows, out, in, experts;
  };
  const std::vector<Size> sizes = place.small ? std::vector<Size>{{256, 64, 32, 4}} : std::vector<Size>{{32768, 2048, 2048, 64}, {32768, 4096, 7168, 32}, {32768, 7168, 2048, 32}};
  const auto& device = place.accelerator();
  for (const Size& s : sizes) {
    const at::Tensor x = place.random({s.rows, s.in}), w = place.random({s.experts * s.out, s.in}), dy = place.random({s.rows, s.out});
    const at::Tensor gradient = at::zeros({s.experts * s.out, s.in}, x.options().dtype(at::kFloat));
    // Expert e gets a share that grows with e.
    const at::Tensor experts = at::randint(0, s.experts * (s.experts + 1) / 2, {s.rows, 1}, at::kLong).mul(8).add(1).to(at::kDouble).sqrt().sub(1).div(2).to(at::kInt);
    kernels::RowGroups groups;
    (void)device.sort_by_expert(experts.clamp(0, s.experts - 1).to(place.device), s.experts, groups);
    const at::Tensor offsets = groups.device_offsets.cpu();
    const double products = static_cast<double>(s.rows) * static_cast<double>(s.out) * static_cast<double>(s.in);
    const auto rate = [&](const std::function<void()>& call) { return teraflops(products, seconds_of(place, call)); };
    const auto loop = [&] {
      for (int64_t e = 0; e < s.experts; ++e) {
        const int64_t begin = offsets.const_data_ptr<int32_t>()[e], end = offsets.const_data_ptr<int32_t>()[e + 1];
        if (end > begin) (void)at::mm(x.slice(0, begin, end), w.narrow(0, e * s.out, s.out).t());
      }
    };
    row({std::to_string(s.rows) + " x " + std::to_string(s.out) + " x " + std::to_string(s.in) + ", " + std::to_string(s.experts), rate(loop),
         rate([&] { (void)device.grouped_product(x, w, Transpose::kYes, groups); }), rate([&] { (void)device.grouped_product(dy, w, Transpose::kNo, groups); }),
         rate([&] { device.add_grouped_gradient(dy, x, groups, gradient); })});
  }
}

}  // namespace

void measure_products(const Place& place) {
  dense(place);
  grouped(place);
}

}  // namespace tessera::bench
