#include "kernels/fp8/block_matrix.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels::fp8 {

BlockMatrix::BlockMatrix(int64_t rows, int64_t columns) : codes_(at::empty({rows, columns}, at::kFloat8_e4m3fn)) {}

void BlockMatrix::put(int64_t begin, const Quantized& matrix, Tile block) {
  const int64_t end = begin + matrix.codes.size(0);
  codes_.narrow(0, begin, matrix.codes.size(0)).copy_(matrix.codes);
  const auto behind = std::find_if(parts_.begin(), parts_.end(), [&](const Part& part) { return part.begin >= begin; });
  TESSERA_CHECK((behind == parts_.begin() || std::prev(behind)->end <= begin) && (behind == parts_.end() || behind->begin >= end), "rows put twice");
  parts_.insert(behind, {begin, end, matrix.scales.to(at::kFloat).contiguous().clone(), block});
}

void BlockMatrix::write_rows(int64_t begin, int64_t end, float* to) const {
  const int64_t width = columns();
  const auto* codes = static_cast<const uint8_t*>(codes_.const_data_ptr());
  auto part = std::partition_point(parts_.begin(), parts_.end(), [&](const Part& p) { return p.end <= begin; });
  for (int64_t row = begin; row < end;) {
    while (part != parts_.end() && part->end <= row) ++part;
    TESSERA_CHECK(part != parts_.end() && part->begin <= row, "row ", row, " of a frozen weight was never filled");
    const int64_t band = (row - part->begin) / part->block.rows;
    const int64_t count = std::min({end, part->end, part->begin + (band + 1) * part->block.rows}) - row;
    kernel_table().fp8_dequantize(Format::kE4m3, {count, part->block.columns}, codes + row * width, width,
                                  part->scales.const_data_ptr<float>() + band * part->scales.size(1), part->scales.size(1), count, width,
                                  to + (row - begin) * width, width);
    row += count;
  }
}

void BlockMatrix::move(c10::Device device, at::ScalarType type) {
  codes_ = codes_.to(device);
  for (Part& part : parts_) part.scales = part.scales.to(device);
  type_ = type;
}

at::Tensor BlockMatrix::values_on(const Accelerator& device, int64_t begin, int64_t end) const {
  std::vector<at::Tensor> pieces;
  for (const Part& part : parts_) {
    const int64_t from = std::max(begin, part.begin), to = std::min(end, part.end);
    if (from >= to) continue;
    const int64_t band = (from - part.begin) / part.block.rows, first = part.begin + band * part.block.rows;  // whole bands of blocks
    const Quantized piece{codes_.slice(0, first, to), part.scales.slice(0, band)};
    const int64_t bands = (to - first + part.block.rows - 1) / part.block.rows;
    pieces.push_back(device.dequantize({piece.codes, piece.scales.narrow(0, 0, bands)}, {Format::kE4m3, part.block}, type_).slice(0, from - first));
  }
  return pieces.size() == 1 ? pieces[0] : at::cat(pieces);
}

at::Tensor BlockMatrix::values(int64_t begin, int64_t end) const {
  if (const Accelerator* device = accelerator_of(codes_)) return values_on(*device, begin, end);
  at::Tensor values = at::empty({end - begin, columns()}, at::kFloat);
  float* to = values.data_ptr<float>();
  for_each_chunk(end - begin, kRowsAtLeast, [&](int64_t, int64_t first, int64_t last) { write_rows(begin + first, begin + last, to + first * columns()); });
  return values;
}

}  // namespace tessera::kernels::fp8
