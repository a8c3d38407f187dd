#include "kernels/embedding.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cstring>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

struct EmbeddingFunction : torch::autograd::Function<EmbeddingFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& table, const at::Tensor& ids,
                            const Parameter* parameter) {
    ctx->save_for_backward({ids});
    ctx->saved_data["parameter"] = reinterpret_cast<int64_t>(parameter);
    if (const Accelerator* device = accelerator_of(table)) return device->embedding(ids, table);
    const int64_t dim = table.size(1), vocabulary = table.size(0);
    at::Tensor out = at::empty({ids.numel(), dim}, table.options());
    const float* rows = table.const_data_ptr<float>();
    const int32_t* id = ids.const_data_ptr<int32_t>();
    float* result = out.data_ptr<float>();
    for (int64_t t = 0; t < ids.numel(); ++t) {
      TESSERA_CHECK(id[t] >= 0 && id[t] < vocabulary, "token id ", id[t], " outside the vocabulary of ", vocabulary);
      std::memcpy(result + t * dim, rows + id[t] * dim, static_cast<size_t>(dim) * sizeof(float));
    }
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const auto& parameter = *reinterpret_cast<const Parameter*>(ctx->saved_data["parameter"].toInt());
    if (!parameter.trainable()) return {at::Tensor(), at::Tensor(), at::Tensor()};
    const at::Tensor ids = ctx->get_saved_variables()[0];
    const at::Tensor dy = gradients[0].contiguous();
    if (const Accelerator* device = accelerator_of(dy)) {
      device->embedding_backward(dy, ids, parameter.open_gradient());
    } else {
      const int64_t dim = dy.size(1);
      const float* d = dy.const_data_ptr<float>();
      const int32_t* id = ids.const_data_ptr<int32_t>();
      float* sum = parameter.open_gradient().data_ptr<float>();
      // Threads share the columns, so that each row is summed in token order.
      for_each_chunk(dim, 64, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t t = 0; t < ids.numel(); ++t)
          for (int64_t j = begin; j < end; ++j) sum[id[t] * dim + j] += d[t * dim + j];
      });
    }
    parameter.gradient_added();
    return {at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor embedding(const at::Tensor& ids, const ParameterPtr& table) {
  TESSERA_CHECK(ids.dim() == 1 && ids.scalar_type() == at::kInt, "embedding of ", ids.sizes());
  table->await();
  return EmbeddingFunction::apply(table->value, ids, table.get());
}

}  // namespace tessera::kernels
