#include "kernels/cpu/onednn_gemm.h"

#include <dlfcn.h>

#include "core/error.h"

namespace tessera::kernels {

namespace {

// dnnl_sgemm of oneDNN's C interface, unchanged since version 1.0; returns 0 on success.
using Sgemm = int (*)(char, char, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*, int64_t, float, float*, int64_t);

Sgemm load_sgemm() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return nullptr;  // sanitizers refuse symbol scopes of their own
#else
  void* library = ::dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  return library == nullptr ? nullptr : reinterpret_cast<Sgemm>(::dlsym(library, "dnnl_sgemm"));
#endif
}

Sgemm sgemm() {
  static const Sgemm loaded = load_sgemm();
  return loaded;
}

}  // namespace

bool onednn_available() { return sgemm() != nullptr; }

void onednn_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                 const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const int status = sgemm()(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  TESSERA_CHECK(status == 0, "oneDNN sgemm of ", m, " x ", n, " x ", k, " failed with status ", status);
}

}  // namespace tessera::kernels
