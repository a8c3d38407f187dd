// The kernel table of one instruction set; CMake compiles this file once for each, with TESSERA_ISA and
// TESSERA_VECTOR_BYTES set.
#include "kernels/cpu/attention.h"
#include "kernels/cpu/decode.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/fp8.h"
#include "kernels/cpu/kernel_table.h"

#define TESSERA_STRING_(x) #x
#define TESSERA_STRING(x) TESSERA_STRING_(x)

namespace tessera::kernels::TESSERA_ISA {

const KernelTable& table() {
  static const KernelTable table = {
      .name = TESSERA_STRING(TESSERA_ISA),
      .rms_norm = rms_norm,
      .rms_norm_backward = rms_norm_backward,
      .rope = rope,
      .swiglu = swiglu,
      .swiglu_backward = swiglu_backward,
      .sigmoid = sigmoid,
      .cross_entropy = cross_entropy,
      .softmax_rows = softmax_rows,
      .softmax_gradient = softmax_gradient,
      .exponentials = exponentials,
      .attention = attention,
      .attention_backward = attention_backward,
      .attention_decode = attention_decode,
      .few_rows_product = few_rows_product,
      .small_product = small_product,
      .add_scaled = add_scaled,
      .dot = dot,
      .sum_of_squares = sum_of_squares,
      .adamw = adamw,
      .adamw_bfloat16 = adamw_bfloat16,
      .round_bfloat16 = round_bfloat16,
      .expand_bfloat16 = expand_bfloat16,
      .fp8_quantize = fp8_quantize,
      .fp8_largest = fp8_largest,
      .fp8_scale = fp8_scale,
      .fp8_quantize_with = fp8_quantize_with,
      .fp8_dequantize = fp8_dequantize,
  };
  return table;
}

}  // namespace tessera::kernels::TESSERA_ISA
