// The kernel tables that this processor runs.
#pragma once

#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace tessera::kernels {

inline std::vector<const KernelTable*> instruction_sets() {
  std::vector<const KernelTable*> list = {&isa_generic::table()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.push_back(&isa_avx2::table());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    list.push_back(&isa_avx512::table());
#endif
  return list;
}

}  // namespace tessera::kernels
