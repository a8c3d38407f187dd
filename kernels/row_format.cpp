#include "kernels/row_format.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

using Kind = RowFormat::Kind;

constexpr fp8::Tile kTile{1, 128};
constexpr int64_t kRowsOfChunk = 8;

/// Of one packed row, in bytes: the scales, the codes, and what fills up the last four.
struct Layout {
  int64_t codes, size;
  explicit Layout(int64_t columns)
      : codes((columns + kTile.columns - 1) / kTile.columns * static_cast<int64_t>(sizeof(float))), size((codes + columns + 3) / 4 * 4) {}
};

template <typename Body>
void for_each_rows(int64_t rows, const Body& body) {
  for_each_chunk(rows, kRowsOfChunk, [&](int64_t, int64_t begin, int64_t end) { body(begin, end - begin); });
}

/// The same bytes, made where the rows are.
at::Tensor pack_there(const Accelerator& device, const at::Tensor& rows, const fp8::Scheme& scheme) {
  const Layout layout(rows.size(1));
  const fp8::Quantized q = device.quantize(rows, scheme, false);
  return at::cat({q.scales.view(at::kByte), at::constant_pad_nd(q.codes.view(at::kByte), {0, layout.size - layout.codes - rows.size(1)})}, 1);
}

at::Tensor pack_fp8(const at::Tensor& rows, RowFormat format) {
  const int64_t columns = rows.size(1);
  const Layout layout(columns);
  const fp8::Scheme scheme{fp8::Format::kE4m3, kTile, format.power_of_two_scales};
  if (const Accelerator* device = accelerator_of(rows)) return pack_there(*device, rows, scheme);
  at::Tensor packed = packed_room(rows.size(0), columns, format, rows.options());
  const float* from = rows.const_data_ptr<float>();
  uint8_t* to = packed.data_ptr<uint8_t>();
  for_each_rows(rows.size(0), [&](int64_t first, int64_t count) {
    uint8_t* row = to + first * layout.size;
    for (int64_t r = 0; r < count; ++r) std::fill(row + r * layout.size + layout.codes + columns, row + (r + 1) * layout.size, uint8_t{0});
    fp8::Sink sink{.codes = row + layout.codes, .code_stride = layout.size};
    sink.scales = reinterpret_cast<float*>(row);
    sink.scale_stride = layout.size / static_cast<int64_t>(sizeof(float));
    kernel_table().fp8_quantize(scheme, from + first * columns, columns, count, columns, sink);
  });
  return packed;
}

void unpack_fp8(const at::Tensor& packed, const at::Tensor& rows) {
  const int64_t columns = rows.size(1);
  const Layout layout(columns);
  if (const Accelerator* device = accelerator_of(rows)) {
    const at::Tensor scales = packed.narrow(1, 0, layout.codes).contiguous(), codes = packed.narrow(1, layout.codes, columns).contiguous();
    rows.copy_(device->dequantize({codes.view(at::kFloat8_e4m3fn), scales.view(at::kFloat)}, {fp8::Format::kE4m3, kTile}, rows.scalar_type()));
    return;
  }
  const uint8_t* from = packed.const_data_ptr<uint8_t>();
  float* to = rows.data_ptr<float>();
  for_each_rows(rows.size(0), [&](int64_t first, int64_t count) {
    const uint8_t* row = from + first * layout.size;
    kernel_table().fp8_dequantize(fp8::Format::kE4m3, kTile, row + layout.codes, layout.size, reinterpret_cast<const float*>(row),
                                  layout.size / static_cast<int64_t>(sizeof(float)), count, columns, to + first * columns, columns);
  });
}

at::Tensor rounded(const at::Tensor& rows, RowFormat format) {
  if (!format.rounds()) return rows;
  at::Tensor result = at::empty_like(rows);
  unpack(pack(rows, format), format, result);
  return result;
}

struct SentFunction : torch::autograd::Function<SentFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& rows, RowFormat there, RowFormat back) {
    ctx->saved_data["kind"] = static_cast<int64_t>(back.kind);
    ctx->saved_data["power_of_two_scales"] = back.power_of_two_scales;
    return rounded(rows, there);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
    const RowFormat back{static_cast<Kind>(ctx->saved_data["kind"].toInt()), ctx->saved_data["power_of_two_scales"].toBool()};
    return {rounded(gradients[0].contiguous(), back), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor packed_room(int64_t rows, int64_t columns, RowFormat format, const at::TensorOptions& options) {
  switch (format.kind) {
    case Kind::kFloat32: return at::empty({rows, columns}, options.dtype(at::kFloat));
    case Kind::kBfloat16: return at::empty({rows, columns}, options.dtype(at::kBFloat16));
    case Kind::kFp8: return at::empty({rows, Layout(columns).size}, options.dtype(at::kByte));
  }
  return {};
}

at::Tensor pack(const at::Tensor& rows, RowFormat format) {
  TESSERA_CHECK(rows.dim() == 2 && rows.is_contiguous() && (rows.scalar_type() == at::kFloat || accelerator_of(rows) != nullptr), "packing of ", rows.sizes());
  switch (format.kind) {
    case Kind::kFloat32: return rows;
    case Kind::kBfloat16: return rows.to(at::kBFloat16);
    case Kind::kFp8: return pack_fp8(rows, format);
  }
  return rows;
}

void unpack(const at::Tensor& packed, RowFormat format, const at::Tensor& rows) {
  if (format.kind == Kind::kFp8) return unpack_fp8(packed, rows);
  rows.copy_(packed);
}

at::Tensor as_if_sent(const at::Tensor& rows, RowFormat there, RowFormat back) {
  return there.rounds() || back.rounds() ? SentFunction::apply(rows, there, back) : rows;
}

}  // namespace tessera::kernels
