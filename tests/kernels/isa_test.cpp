// Every instruction set this processor has gives the same results as the generic kernels, to rounding.
#include "instruction_sets.h"
#include "test_tensors.h"

namespace tessera::kernels {
namespace {

TEST(InstructionSets, AgreeOnSwigluAndNorms) {
  const at::Tensor x = random_tensor({7, 90}, 1).mul_(20.0), w = random_tensor({90}, 2);
  at::Tensor first_swiglu, first_norm;
  for (const KernelTable* table : instruction_sets()) {
    at::Tensor swiglu = at::empty({7, 45}), norm = at::empty({7, 90}), rstd = at::empty({7});
    table->swiglu(x.data_ptr<float>(), 7, 45, swiglu.data_ptr<float>());
    table->rms_norm(x.data_ptr<float>(), nullptr, w.data_ptr<float>(), 1e-6f, 7, 90, nullptr, norm.data_ptr<float>(), rstd.data_ptr<float>());
    if (!first_norm.defined()) {
      first_swiglu = swiglu;
      first_norm = norm;
    }
    expect_close(swiglu, first_swiglu, 1e-6, table->name);
    expect_close(norm, first_norm, 1e-6, table->name);
  }
}

TEST(InstructionSets, FewRowsProductEqualsMm) {
  for (const KernelTable* table : instruction_sets()) {
    for (int64_t rows : {1, 2, 3, 4, 7, 16, 37}) {
      const at::Tensor x = random_tensor({rows, 101}, rows), w = random_tensor({37, 101}, 5);
      at::Tensor y = at::empty({rows, 37});
      table->few_rows_product(x.data_ptr<float>(), rows, 101, w.data_ptr<float>(), 0, 20, y.data_ptr<float>(), 37);
      table->few_rows_product(x.data_ptr<float>(), rows, 101, w.data_ptr<float>(), 20, 37, y.data_ptr<float>(), 37);
      expect_close(y, x.mm(w.t()), 1e-5, table->name);
    }
  }
}

TEST(InstructionSets, AttentionDecodeEqualsSoftmax) {
  for (const KernelTable* table : instruction_sets()) {
    for (int64_t group : {1, 2, 3, 4, 7, 11}) {
      for (int64_t keys : {1, 5, 33, 130}) {
        const int64_t qk_dim = 40, v_dim = 24, stride = 70;
        const at::Tensor q = random_tensor({group, qk_dim}, 1).mul_(3.0), cache = random_tensor({keys, stride}, 2);
        at::Tensor out = at::empty({group, v_dim}), scratch = at::empty({attention_decode_scratch_floats(group, keys)});
        const float* rows = cache.const_data_ptr<float>();
        const std::vector<CachedRun> runs = {{rows, keys / 3}, {rows + keys / 3 * stride, keys - keys / 3}};  // the first may be empty
        table->attention_decode(q.data_ptr<float>(), group, qk_dim, runs.data(), 2, stride, 0, qk_dim, v_dim, 0.3f, out.data_ptr<float>(),
                                scratch.data_ptr<float>());
        const at::Tensor p = q.mm(cache.slice(1, 0, qk_dim).t()).mul_(0.3).softmax(-1);
        expect_close(out, p.mm(cache.slice(1, qk_dim, qk_dim + v_dim)), 1e-5, table->name);
      }
    }
  }
}

TEST(InstructionSets, ExponentialsUnderflowToZeroAndStayFinite) {
  for (const KernelTable* table : instruction_sets()) {
    at::Tensor logits = at::full({1, 100}, -1e30f);
    logits[0][3] = 80.0f;
    const int32_t target = 3;
    const float weight = 1.0f;
    float log_prob = 1.0f;
    table->cross_entropy(logits.data_ptr<float>(), 1, 100, &target, &weight, true, &log_prob);
    EXPECT_EQ(log_prob, 0.0f) << table->name;
    EXPECT_EQ(logits.abs().max().item<float>(), 0.0f) << table->name;
  }
}

}  // namespace
}  // namespace tessera::kernels
