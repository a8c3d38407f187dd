#include "kernels/swiglu.h"

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels {

at::Tensor swiglu(const at::Tensor& gate_up) {
  TESSERA_CHECK(gate_up.dim() == 2 && gate_up.is_contiguous() && gate_up.size(1) % 2 == 0, "swiglu of ", gate_up.sizes());
  if (const Accelerator* device = accelerator_of(gate_up)) return device->swiglu(gate_up);
  const int64_t dim = gate_up.size(1) / 2;
  at::Tensor out = at::empty({gate_up.size(0), dim}, gate_up.options());
  const float* in = gate_up.const_data_ptr<float>();
  float* result = out.data_ptr<float>();
  for_each_chunk(gate_up.size(0), 4, [&](int64_t, int64_t begin, int64_t end) {
    kernel_table().swiglu(in + begin * 2 * dim, end - begin, dim, result + begin * dim);
  });
  return out;
}

at::Tensor swiglu_backward(const at::Tensor& d_out, const at::Tensor& gate_up) {
  if (const Accelerator* device = accelerator_of(gate_up)) return device->swiglu_backward(d_out, gate_up);
  const int64_t dim = gate_up.size(1) / 2;
  at::Tensor gradient = at::empty_like(gate_up);
  const float *d = d_out.const_data_ptr<float>(), *in = gate_up.const_data_ptr<float>();
  float* result = gradient.data_ptr<float>();
  for_each_chunk(gate_up.size(0), 4, [&](int64_t, int64_t begin, int64_t end) {
    kernel_table().swiglu_backward(d + begin * dim, in + begin * 2 * dim, end - begin, dim, result + begin * 2 * dim);
  });
  return gradient;
}

}  // namespace tessera::kernels
