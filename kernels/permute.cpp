#include "kernels/permute.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/threads.h"

namespace tessera::kernels {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct MapHolder : torch::CustomClassHolder {
  RowMapPtr map;
};

c10::IValue hold(const RowMapPtr& map) {
  auto holder = c10::make_intrusive<MapHolder>();
  holder->map = map;
  return c10::IValue::make_capsule(holder);
}

RowMapPtr held(const c10::IValue& value) { return c10::static_intrusive_pointer_cast<MapHolder>(value.toCapsule())->map; }

/// A choice that has a row.
struct Term {
  int32_t key;
  int64_t slot, row;
};

/// Runs body(token, first, last, scratch) with each token's terms in the order of their keys; tokens are shared out to
/// threads. `scratch` has room for `floats` a term.
template <typename Body>
void for_each_token(const RowMap& map, int64_t floats, const Body& body) {
  for_each_chunk(map.tokens, kRowsAtLeast, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<Term> terms;
    std::vector<float> scratch(static_cast<size_t>(map.choices * floats));
    for (int64_t token = begin; token < end; ++token) {
      terms.clear();
      for (int64_t slot = token * map.choices; slot < (token + 1) * map.choices; ++slot) {
        const int64_t row = map.row_of[static_cast<size_t>(slot)];
        if (row >= 0) terms.push_back({map.keys[static_cast<size_t>(slot)], slot, row});
      }
      std::sort(terms.begin(), terms.end(), [](const Term& a, const Term& b) { return a.key < b.key; });
      if (!terms.empty()) body(token, terms.data(), terms.data() + terms.size(), scratch.data());
    }
  });
}

/// out = the sum of the terms, whose keys lie in [low, high). leaf(term, out) writes one of them.
template <typename Leaf>
void tree_sum(const Term* first, const Term* last, int32_t low, int32_t high, int64_t dim, float* out, float* scratch, const Leaf& leaf) {
  if (last - first == 1) return leaf(*first, out);
  const int32_t middle = low + (high - low) / 2;
  const Term* split = first;
  while (split != last && split->key < middle) ++split;
  if (split == first) return tree_sum(first, last, middle, high, dim, out, scratch, leaf);
  if (split == last) return tree_sum(first, last, low, middle, dim, out, scratch, leaf);
  tree_sum(first, split, low, middle, dim, out, scratch, leaf);
  tree_sum(split, last, middle, high, dim, scratch, scratch + dim, leaf);
  kernel_table().add_scaled(1.0f, scratch, out, dim);
}

at::Tensor gathered(const at::Tensor& x, const RowMap& map) {
  if (const Accelerator* device = accelerator_of(x)) return device->gather_rows(x, map);
  const int64_t dim = x.size(1), count = static_cast<int64_t>(map.slot_of.size());
  at::Tensor rows = at::empty({count, dim}, x.options());
  const float* from = x.const_data_ptr<float>();
  float* to = rows.data_ptr<float>();
  for_each_chunk(count, kRowsAtLeast, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      std::memcpy(to + r * dim, from + map.slot_of[static_cast<size_t>(r)] / map.choices * dim, static_cast<size_t>(dim) * sizeof(float));
  });
  return rows;
}

/// Adds to each row of y [T, D] the sum of its token's rows, each times its weight where there are weights.
void add_sums(const at::Tensor& rows, const RowMap& map, const at::Tensor& row_weights, at::Tensor& y) {
  if (const Accelerator* device = accelerator_of(y)) return device->add_sums(rows, map, row_weights, y);
  const float* weights = row_weights.defined() ? row_weights.const_data_ptr<float>() : nullptr;
  const int64_t dim = rows.size(1);
  const auto bytes = static_cast<size_t>(dim) * sizeof(float);
  const float* from = rows.const_data_ptr<float>();
  float* to = y.data_ptr<float>();
  const auto leaf = [&](const Term& term, float* out) {
    if (weights == nullptr) {
      std::memcpy(out, from + term.row * dim, bytes);
    } else {
      std::memset(out, 0, bytes);
      kernel_table().add_scaled(weights[term.slot], from + term.row * dim, out, dim);
    }
  };
  for_each_token(map, dim, [&](int64_t token, const Term* first, const Term* last, float* scratch) {
    tree_sum(first, last, 0, map.num_keys, dim, scratch, scratch + dim, leaf);
    kernel_table().add_scaled(1.0f, scratch, to + token * dim, dim);
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
    add_sums(d_rows, *map, {}, dx);
    return {dx, at::Tensor()};
  }
};

struct SumFunction : torch::autograd::Function<SumFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows, const at::Tensor& base, const RowMapPtr& map) {
    ctx->saved_data["map"] = hold(map);
    at::Tensor y = base.clone();
    add_sums(rows, *map, {}, y);
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
    at::Tensor y = base.clone();
    add_sums(rows, *map, weights, y);
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
    if (const Accelerator* device = accelerator_of(dy)) {
      device->sums_backward(dy, saved[0], saved[1], *map, d_rows, d_weights);
      return {d_rows, d_weights, dy, at::Tensor()};
    }
    const float *rows = saved[0].const_data_ptr<float>(), *w = saved[1].const_data_ptr<float>(), *d = dy.const_data_ptr<float>();
    float *to = d_rows.data_ptr<float>(), *dw = d_weights.data_ptr<float>();
    for_each_token(*map, 0, [&](int64_t token, const Term* first, const Term* last, float*) {
      const float* d_token = d + token * dim;
      for (const Term* term = first; term != last; ++term) {
        dw[term->slot] = kernel_table().dot(d_token, rows + term->row * dim, dim);
        std::memset(to + term->row * dim, 0, static_cast<size_t>(dim) * sizeof(float));
        kernel_table().add_scaled(w[term->slot], d_token, to + term->row * dim, dim);
      }
    });
    return {d_rows, d_weights, dy, at::Tensor()};
  }
};

/// As int32.
template <typename T>
at::Tensor uploaded(const std::vector<T>& values, const Accelerator& device) {
  at::Tensor narrow = at::empty({static_cast<int64_t>(values.size())}, at::kInt);
  std::transform(values.begin(), values.end(), narrow.data_ptr<int32_t>(), [](T value) { return static_cast<int32_t>(value); });
  return device.upload(narrow);
}

}  // namespace

void RowMap::copy_to(const Accelerator& device) {
  device_row_of = uploaded(row_of, device).view({tokens, choices});
  device_slot_of = uploaded(slot_of, device);
}

void RowGroups::copy_to(const Accelerator& device) { device_offsets = uploaded(offsets, device); }

at::Tensor gather_rows(const at::Tensor& x, const RowMapPtr& map) {
  TESSERA_CHECK(x.is_contiguous() && x.size(0) == map->tokens, "gather_rows of ", x.sizes());
  return GatherFunction::apply(x, map);
}

at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& base, const RowMapPtr& map) {
  TESSERA_CHECK(rows.is_contiguous() && weights.is_contiguous() && rows.size(0) == map->rows() &&
                    base.size(0) == map->tokens && weights.numel() == map->tokens * map->choices,
                "combine_rows of ", rows.sizes(), ", ", weights.sizes(), ", ", base.sizes());
  return CombineFunction::apply(rows, weights, base, map);
}

at::Tensor sum_rows(const at::Tensor& rows, const at::Tensor& base, const RowMapPtr& map) {
  TESSERA_CHECK(rows.is_contiguous() && rows.size(0) == map->rows() && base.size(0) == map->tokens,
                "sum_rows of ", rows.sizes(), ", ", base.sizes());
  return SumFunction::apply(rows, base, map);
}

}  // namespace tessera::kernels
