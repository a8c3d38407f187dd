#include "kernels/cuda/grouped_fp8.h"

#include <cute/tensor.hpp>
#include <cutlass/cutlass.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

namespace tessera::kernels::cuda {

namespace {

using cute::_1;
using cute::_128;
using cute::_2;

using Codes = cutlass::float_e4m3_t;
using Output = cutlass::bfloat16_t;
using RowMajor = cutlass::layout::RowMajor;
using ColumnMajor = cutlass::layout::ColumnMajor;
using ProblemShape = cutlass::gemm::GroupProblemShape<cute::Shape<int, int, int>>;  // rows, out, in of each expert
using TileShape = cute::Shape<_128, _128, _128>;
using ClusterShape = cute::Shape<_1, _2, _1>;
// Scales lie row by row, as the quantiser writes them: a row's begin at the same place whatever expert it belongs to.
using Scales = cutlass::detail::Sm90BlockwiseScaleConfig<1, 128, 128, cute::GMMA::Major::K, cute::GMMA::Major::K>;
using ScaleLayoutX = decltype(Scales::deduce_layoutSFA());
using ScaleLayoutW = decltype(Scales::deduce_layoutSFB());
constexpr int kCodeAlignment = 16, kOutputAlignment = 8;  // elements of 16 bytes

using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape, cutlass::epilogue::collective::EpilogueTileAuto, float, float, void,
    RowMajor*, kOutputAlignment, Output, RowMajor*, kOutputAlignment, cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Codes, cute::tuple<RowMajor*, ScaleLayoutX*>, kCodeAlignment, Codes,
    cute::tuple<ColumnMajor*, ScaleLayoutW*>, kCodeAlignment, float, TileShape, ClusterShape,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
    cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperativeFP8Blockwise>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<ProblemShape, Mainloop, Epilogue>;
using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

using Shape = typename ProblemShape::UnderlyingProblemShape;
using StrideX = typename Kernel::InternalStrideA;
using StrideW = typename Kernel::InternalStrideB;
using StrideY = typename Kernel::InternalStrideD;

/// What the kernel reads for each expert. The arrays lie one behind the other in the workspace.
struct Tables {
  Shape* shapes;
  const Codes **x, **w;
  const float **x_scales, **w_scales;
  Output** y;
  StrideX* x_strides;
  StrideW* w_strides;
  StrideY* y_strides;
  ScaleLayoutX* x_layouts;
  ScaleLayoutW* w_layouts;
  size_t bytes = 0;

  CUTLASS_HOST_DEVICE Tables(void* memory, int32_t experts) {
    char* next = static_cast<char*>(memory);
    const auto take = [&](auto*& array) {
      array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(next + bytes);
      bytes += (sizeof(*array) * static_cast<size_t>(experts) + 255) / 256 * 256;
    };
    take(shapes), take(x), take(w), take(x_scales), take(w_scales), take(y), take(x_strides), take(w_strides), take(y_strides), take(x_layouts), take(w_layouts);
  }
};

/// One thread an expert: the offsets never leave the device.
__global__ void fill_tables(GroupedFp8 p) {
  const int32_t e = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (e >= p.experts) return;
  const Tables tables(p.workspace, p.experts);
  const int64_t first = p.offsets[e];
  const int rows = p.offsets[e + 1] - p.offsets[e], out = static_cast<int>(p.out), in = static_cast<int>(p.in);
  const int64_t blocks_in = (p.in + 127) / 128, blocks_out = (p.out + 127) / 128;
  tables.shapes[e] = cute::make_shape(rows, out, in);
  tables.x[e] = static_cast<const Codes*>(p.x) + first * p.in;
  tables.w[e] = static_cast<const Codes*>(p.w) + e * p.out * p.in;
  tables.x_scales[e] = p.x_scales + first * blocks_in;
  tables.w_scales[e] = p.w_scales + e * blocks_out * blocks_in;
  tables.y[e] = static_cast<Output*>(p.y) + first * p.out;
  tables.x_strides[e] = cutlass::make_cute_packed_stride(StrideX{}, cute::make_shape(rows, in, 1));
  tables.w_strides[e] = cutlass::make_cute_packed_stride(StrideW{}, cute::make_shape(out, in, 1));
  tables.y_strides[e] = cutlass::make_cute_packed_stride(StrideY{}, cute::make_shape(rows, out, 1));
  tables.x_layouts[e] = Scales::tile_atom_to_shape_SFA(cute::make_shape(rows, out, in, 1));
  tables.w_layouts[e] = Scales::tile_atom_to_shape_SFB(cute::make_shape(rows, out, in, 1));
}

typename Gemm::Arguments arguments_of(const GroupedFp8& p, const Tables& t) {
  static const cutlass::KernelHardwareInfo hardware = [] {
    int device = 0;
    cudaGetDevice(&device);
    return cutlass::KernelHardwareInfo::make_kernel_hardware_info<Kernel>(device);
  }();
  typename Gemm::Arguments arguments{cutlass::gemm::GemmUniversalMode::kGrouped,
                                     {p.experts, t.shapes, nullptr},
                                     {t.x, t.x_strides, t.w, t.w_strides, t.x_scales, t.x_layouts, t.w_scales, t.w_layouts},
                                     {{}, nullptr, t.y_strides, t.y, t.y_strides},
                                     hardware};
  arguments.epilogue.thread.alpha = 1.0f;
  arguments.epilogue.thread.beta = 0.0f;
  return arguments;
}

}  // namespace

size_t grouped_fp8_workspace(int32_t experts) {
  GroupedFp8 sizes;
  sizes.experts = experts;
  const Tables tables(nullptr, experts);
  return tables.bytes + Gemm::get_workspace_size(arguments_of(sizes, tables));
}

const char* grouped_fp8(const GroupedFp8& p) {
  if (p.in % kCodeAlignment != 0 || p.out % kCodeAlignment != 0) return "sizes are no multiples of 16";
  const auto stream = static_cast<cudaStream_t>(p.stream);
  constexpr int kThreads = 128;
  fill_tables<<<(p.experts + kThreads - 1) / kThreads, kThreads, 0, stream>>>(p);
  const Tables tables(p.workspace, p.experts);
  Gemm gemm;
  const auto arguments = arguments_of(p, tables);
  if (const auto status = gemm.can_implement(arguments); status != cutlass::Status::kSuccess) return cutlass::cutlassGetStatusString(status);
  if (const auto status = gemm.initialize(arguments, static_cast<char*>(p.workspace) + tables.bytes, stream); status != cutlass::Status::kSuccess)
    return cutlass::cutlassGetStatusString(status);
  const auto status = gemm.run(stream);
  return status == cutlass::Status::kSuccess ? nullptr : cutlass::cutlassGetStatusString(status);
}

}  // namespace tessera::kernels::cuda
