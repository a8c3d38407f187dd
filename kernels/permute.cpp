#include "kernels/permute.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cstring>

#include "core/error.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 16;

struct MapHolder : torch::CustomClassHolder {
  RowMapPtr map;
};

c10::IValue hold(const RowMapPtr& map) {
  auto holder = c10::make_intrusive<MapHolder>();
  holder->map = map;
  return c10::IValue::make_capsule(holder);
}

RowMapPtr held(const c10::IValue& value) { return c10::static_intrusive_pointer_cast<MapHolder>(value.toCapsule())->map; }

/// Runs body(slot, row) for the choices of each token, in order; tokens are shared out to threads.
template <typename Body>
void for_each_choice(const RowMap& map, const Body& body) {
  for_each_chunk(map.tokens, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t slot = begin * map.choices; slot < end * map.choices; ++slot) {
      const int64_t row = map.row_of[static_cast<size_t>(slot)];
      if (row >= 0) body(slot, row);
    }
  });
}

at::Tensor gathered(const at::Tensor& x, const RowMap& map) {
  const int64_t dim = x.size(1), count = static_cast<int64_t>(map.slot_of.size());
  at::Tensor rows = at::empty({count, dim}, x.options());
  const float* from = x.const_data_ptr<float>();
  float* to = rows.data_ptr<float>();
  for_each_chunk(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      std::memcpy(to + r * dim, from + map.slot_of[static_cast<size_t>(r)] / map.choices * dim, static_cast<size_t>(dim) * sizeof(float));
  });
  return rows;
}

/// Adds each row to its token's in `sums` [T, D].
void add_to_tokens(const at::Tensor& rows, const RowMap& map, at::Tensor& sums) {
  const int64_t dim = rows.size(1);
  const float* from = rows.const_data_ptr<float>();
  float* to = sums.data_ptr<float>();
  for_each_choice(map, [&](int64_t slot, int64_t row) {
    kernel_table().add_scaled(1.0f, from + row * dim, to + slot / map.choices * dim, dim);
  });
}

struct GatherFunction : torch::autograd::Function<GatherFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const RowMapPtr& map) {
    ctx->saved_data["map"] = hold(map);
    return gathered(x, *map);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const RowMapPtr map = held(ctx->saved_data["map"]);
    const at::Tensor d_rows = gradients[0].contiguous();
    at::Tensor dx = at::zeros({map->tokens, d_rows.size(1)}, d_rows.options());
    add_to_tokens(d_rows, *map, dx);
    return {dx, at::Tensor()};
  }
};

struct SumFunction : torch::autograd::Function<SumFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows, const at::Tensor& base, const RowMapPtr& map) {
    ctx->saved_data["map"] = hold(map);
    at::Tensor y = base.clone();
    add_to_tokens(rows, *map, y);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const at::Tensor dy = gradients[0].contiguous();
    return {gathered(dy, *held(ctx->saved_data["map"])), dy, at::Tensor()};
  }
};

struct CombineFunction : torch::autograd::Function<CombineFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& base,
                            const RowMapPtr& map) {
    const int64_t dim = rows.size(1);
    at::Tensor y = base.clone();
    const float *from = rows.const_data_ptr<float>(), *w = weights.const_data_ptr<float>();
    float* to = y.data_ptr<float>();
    for_each_choice(*map, [&](int64_t slot, int64_t row) {
      kernel_table().add_scaled(w[slot], from + row * dim, to + slot / map->choices * dim, dim);
    });
    ctx->save_for_backward({rows, weights});
    ctx->saved_data["map"] = hold(map);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const RowMapPtr map = held(ctx->saved_data["map"]);
    const auto saved = ctx->get_saved_variables();
    const at::Tensor dy = gradients[0].contiguous();
    const int64_t dim = dy.size(1);
    at::Tensor d_rows = at::empty_like(saved[0]), d_weights = at::zeros_like(saved[1]);
    const float *rows = saved[0].const_data_ptr<float>(), *w = saved[1].const_data_ptr<float>(), *d = dy.const_data_ptr<float>();
    float *to = d_rows.data_ptr<float>(), *dw = d_weights.data_ptr<float>();
    for_each_choice(*map, [&](int64_t slot, int64_t row) {
      const float* d_token = d + slot / map->choices * dim;
      dw[slot] = kernel_table().dot(d_token, rows + row * dim, dim);
      std::memset(to + row * dim, 0, static_cast<size_t>(dim) * sizeof(float));
      kernel_table().add_scaled(w[slot], d_token, to + row * dim, dim);
    });
    return {d_rows, d_weights, dy, at::Tensor()};
  }
};

}  // namespace

at::Tensor gather_rows(const at::Tensor& x, const RowMapPtr& map) {
  TESSERA_CHECK(x.is_contiguous() && x.size(0) == map->tokens, "gather_rows of ", x.sizes());
  return GatherFunction::apply(x, map);
}

at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& base, const RowMapPtr& map) {
  TESSERA_CHECK(rows.is_contiguous() && weights.is_contiguous() && rows.size(0) == static_cast<int64_t>(map->slot_of.size()) &&
                    base.size(0) == map->tokens && weights.numel() == map->tokens * map->choices,
                "combine_rows of ", rows.sizes(), ", ", weights.sizes(), ", ", base.sizes());
  return CombineFunction::apply(rows, weights, base, map);
}

at::Tensor sum_rows(const at::Tensor& rows, const at::Tensor& base, const RowMapPtr& map) {
  TESSERA_CHECK(rows.is_contiguous() && rows.size(0) == static_cast<int64_t>(map->slot_of.size()) && base.size(0) == map->tokens,
                "sum_rows of ", rows.sizes(), ", ", base.sizes());
  return SumFunction::apply(rows, base, map);
}

}  // namespace tessera::kernels
