#include "kernels/cpu/kernel_table.h"

namespace tessera::kernels {

const KernelTable& kernel_table() {
  static const KernelTable& chosen = [] () -> const KernelTable& {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return isa_avx512::table();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return isa_avx2::table();
#endif
    return isa_generic::table();
  }();
  return chosen;
}

int64_t attention_scratch_floats(int64_t keys, int64_t qk_dim, int64_t value_dim) {
  const int64_t padded = (keys + 31) / 32 * 32;
  return 2 * 64 * padded + padded * (qk_dim + value_dim) + 4096;
}

int64_t attention_decode_scratch_floats(int64_t group, int64_t keys) { return group * ((keys + 15) / 16 * 16); }

}  // namespace tessera::kernels
