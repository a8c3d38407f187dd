#include "kernels/cuda/grouped_fp8.h"

#include <cute/tensor.hpp>
#include <cutlass/cutlass.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

#include <algorithm>

namespace tessera::kernels::cuda {

namespace {

using cute::_1;
using cute::_128;
using cute::_2;

using Codes = cutlass::float_e4m3_t;
using RowMajor = cutlass::layout::RowMajor;
using ColumnMajor = cutlass::layout::ColumnMajor;
using ProblemShape = cutlass::gemm::GroupProblemShape<cute::Shape<int, int, int>>;  // m, n, k of each expert
using Shape = typename ProblemShape::UnderlyingProblemShape;
using TileShape = cute::Shape<_128, _128, _128>;
using ClusterShape = cute::Shape<_1, _2, _1>;
constexpr int kCodeAlignment = 16;  // elements of 16 bytes

/// d [m, n] = a [m, k] b [n, k]^T of each expert, plus d as it was if `Addend` is not void.
template <typename Output, typename Addend, typename ScaleConfig>
struct Grouped {
  using Scales = ScaleConfig;
  using Result = Output;
  using LayoutA = decltype(Scales::deduce_layoutSFA());
  using LayoutB = decltype(Scales::deduce_layoutSFB());
  static constexpr int kOutputAlignment = 16 / static_cast<int>(sizeof(Output));
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape, cutlass::epilogue::collective::EpilogueTileAuto, float, float, Addend,
      RowMajor*, kOutputAlignment, Output, RowMajor*, kOutputAlignment, cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Codes, cute::tuple<RowMajor*, LayoutA*>, kCodeAlignment, Codes,
      cute::tuple<ColumnMajor*, LayoutB*>, kCodeAlignment, float, TileShape, ClusterShape,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperativeFP8Blockwise>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<ProblemShape, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
  using StrideA = typename Kernel::InternalStrideA;
  using StrideB = typename Kernel::InternalStrideB;
  using StrideD = typename Kernel::InternalStrideD;

  /// What the kernel reads for each expert. The arrays lie one behind the other in the workspace.
  struct Tables {
    Shape* shapes;
    const Codes **a, **b;
    const float **a_scales, **b_scales;
    Output** d;
    StrideA* a_strides;
    StrideB* b_strides;
    StrideD* d_strides;
    LayoutA* a_layouts;
    LayoutB* b_layouts;
    size_t bytes = 0;

    CUTLASS_HOST_DEVICE Tables(void* memory, int32_t experts) {
      char* next = static_cast<char*>(memory);
      const auto take = [&](auto*& array) {
        array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(next + bytes);
        bytes += (sizeof(*array) * static_cast<size_t>(experts) + 255) / 256 * 256;
      };
      take(shapes), take(a), take(b), take(a_scales), take(b_scales), take(d), take(a_strides), take(b_strides), take(d_strides), take(a_layouts), take(b_layouts);
    }

    /// Lines of a and b are `line` codes long, of which the product takes k.
    __device__ void set_sizes(int32_t e, int m, int n, int k, int line) const {
      shapes[e] = cute::make_shape(m, n, k);
      a_strides[e] = cutlass::make_cute_packed_stride(StrideA{}, cute::make_shape(m, line, 1));
      b_strides[e] = cutlass::make_cute_packed_stride(StrideB{}, cute::make_shape(n, line, 1));
      d_strides[e] = cutlass::make_cute_packed_stride(StrideD{}, cute::make_shape(m, n, 1));
      a_layouts[e] = Scales::tile_atom_to_shape_SFA(cute::make_shape(m, n, k, 1));
      b_layouts[e] = Scales::tile_atom_to_shape_SFB(cute::make_shape(m, n, k, 1));
    }
  };

  static typename Gemm::Arguments arguments_of(int32_t experts, const Tables& t) {
    static const cutlass::KernelHardwareInfo hardware = [] {
      int device = 0;
      cudaGetDevice(&device);
      return cutlass::KernelHardwareInfo::make_kernel_hardware_info<Kernel>(device);
    }();
    typename Gemm::Arguments arguments{cutlass::gemm::GemmUniversalMode::kGrouped,
                                       {experts, t.shapes, nullptr},
                                       {t.a, t.a_strides, t.b, t.b_strides, t.a_scales, t.a_layouts, t.b_scales, t.b_layouts},
                                       {{}, nullptr, t.d_strides, t.d, t.d_strides},
                                       hardware};
    if constexpr (!std::is_void_v<Addend>) arguments.epilogue.ptr_C = const_cast<const Output**>(t.d);
    arguments.epilogue.thread.alpha = 1.0f;
    arguments.epilogue.thread.beta = std::is_void_v<Addend> ? 0.0f : 1.0f;
    return arguments;
  }

  static size_t workspace(int32_t experts) {
    const Tables tables(nullptr, experts);
    return tables.bytes + Gemm::get_workspace_size(arguments_of(experts, tables));
  }

  static const char* run(int32_t experts, void* workspace, cudaStream_t stream) {
    const Tables tables(workspace, experts);
    Gemm gemm;
    const auto arguments = arguments_of(experts, tables);
    auto status = gemm.can_implement(arguments);
    if (status == cutlass::Status::kSuccess) status = gemm.initialize(arguments, static_cast<char*>(workspace) + tables.bytes, stream);
    if (status == cutlass::Status::kSuccess) status = gemm.run(stream);
    return status == cutlass::Status::kSuccess ? nullptr : cutlass::cutlassGetStatusString(status);
  }
};

// Scales lie row by row, as the quantiser writes them: a row's begin at the same place whatever expert it belongs to.
using Forward = Grouped<cutlass::bfloat16_t, void, cutlass::detail::Sm90BlockwiseScaleConfig<1, 128, 128, cute::GMMA::Major::K, cute::GMMA::Major::K>>;
// Scales lie tile by tile: the kernel takes each expert's as a matrix without gaps.
using Gradient = Grouped<float, float, cutlass::detail::Sm90BlockwiseScaleConfig<1, 1, 128, cute::GMMA::Major::MN, cute::GMMA::Major::MN>>;

/// One thread an expert: the offsets never leave the device.
__global__ void fill(Forward::Tables tables, GroupedFp8 p) {
  const int32_t e = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (e >= p.experts) return;
  const int64_t first = p.offsets[e], blocks_in = (p.in + 127) / 128, blocks_out = (p.out + 127) / 128;
  tables.set_sizes(e, p.offsets[e + 1] - p.offsets[e], static_cast<int>(p.out), static_cast<int>(p.in), static_cast<int>(p.in));
  tables.a[e] = static_cast<const Codes*>(p.x) + first * p.in;
  tables.b[e] = static_cast<const Codes*>(p.w) + e * p.out * p.in;
  tables.a_scales[e] = p.x_scales + first * blocks_in;
  tables.b_scales[e] = p.w_scales + e * blocks_out * blocks_in;
  tables.d[e] = static_cast<Forward::Result*>(p.y) + first * p.out;
}

__global__ void fill(Gradient::Tables tables, GroupedFp8Gradient p) {
  const int32_t e = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (e >= p.experts) return;
  const int64_t first = p.offsets[e];
  tables.set_sizes(e, static_cast<int>(p.out), static_cast<int>(p.in), p.offsets[e + 1] - p.offsets[e], static_cast<int>(p.padded));
  tables.a[e] = static_cast<const Codes*>(p.dy) + first;
  tables.b[e] = static_cast<const Codes*>(p.u) + first;
  tables.a_scales[e] = p.dy_scales + first / 128 * p.out;
  tables.b_scales[e] = p.u_scales + first / 128 * p.in;
  tables.d[e] = p.gradient + e * p.out * p.in;
}

template <typename Kind, typename Job>
const char* run(const Job& p) {
  if (p.in % kCodeAlignment != 0 || p.out % kCodeAlignment != 0) return "sizes are no multiples of 16";
  const auto stream = static_cast<cudaStream_t>(p.stream);
  constexpr int kThreads = 128;
  fill<<<(p.experts + kThreads - 1) / kThreads, kThreads, 0, stream>>>(typename Kind::Tables(p.workspace, p.experts), p);
  return Kind::run(p.experts, p.workspace, stream);
}

}  // namespace

const char* grouped_fp8(const GroupedFp8& product) { return run<Forward>(product); }
const char* grouped_fp8_gradient(const GroupedFp8Gradient& product) { return run<Gradient>(product); }
size_t grouped_fp8_workspace(int32_t experts) { return std::max(Forward::workspace(experts), Gradient::workspace(experts)); }

}  // namespace tessera::kernels::cuda
