#include "model/layers.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/error.h"
#include "kernels/fp8/block_matrix.h"

namespace tessera::model {

at::Tensor NamedWeight::view() const {
  TESSERA_CHECK(!parameter->codes, name, " is kept as codes");
  const at::Tensor value = parameter->value.detach();
  return value.view({-1}).narrow(0, offset(), numel()).view(shape);
}

at::Tensor NamedWeight::values() const { return parameter->codes ? parameter->codes->values(row_begin, row_begin + shape[0]) : view(); }

int64_t NamedWeight::numel() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

int64_t NamedWeight::offset() const {
  const at::Tensor& value = parameter->value;
  return row_begin * (value.numel() / std::max<int64_t>(1, value.size(0)));
}

LinearLayer make_linear(std::vector<std::pair<std::string, int64_t>> parts, int64_t in, bool bias) {
  LinearLayer layer;
  int64_t out = 0;
  for (auto& [name, rows] : parts) {
    layer.parts.push_back({name, out, out + rows});
    out += rows;
  }
  layer.spec.weight = kernels::make_parameter({out, in});
  if (bias) layer.spec.bias = kernels::make_parameter({out});
  return layer;
}

void put_norm_in_front(LinearLayer& layer, std::string name, double eps) {
  layer.norm_name = std::move(name);
  layer.spec.prologue = kernels::Prologue::kRmsNorm;
  layer.spec.norm = kernels::make_parameter({layer.spec.weight->value.size(1)});
  layer.spec.norm_eps = static_cast<float>(eps);
}

void list_weight(const std::string& name, const kernels::ParameterPtr& parameter, std::vector<NamedWeight>& list) {
  list.push_back({name, parameter, 0, parameter->value.sizes().vec()});
}

void list_linear(const std::string& prefix, const LinearLayer& layer, std::vector<NamedWeight>& list) {
  if (layer.spec.norm) list_weight(prefix + layer.norm_name + ".weight", layer.spec.norm, list);
  const int64_t in = layer.spec.weight->value.size(1);
  for (const auto& part : layer.parts) {
    const int64_t out = part.out_end - part.out_begin;
    list.push_back({prefix + part.name + ".weight", layer.spec.weight, part.out_begin, {out, in}, false, true});
    if (layer.spec.bias) list.push_back({prefix + part.name + ".bias", layer.spec.bias, part.out_begin, {out}});
  }
}

at::Tensor run_linear(const Pass& pass, const at::Tensor& x, const LinearLayer& layer, const at::Tensor& residual) {
  switch (pass.kind) {
    case PassKind::kPrefill: return kernels::linear_prefill(x, layer.spec, residual);
    case PassKind::kDecode: return kernels::linear_decode(x, layer.spec, residual);
    case PassKind::kTraining: break;
  }
  return kernels::linear(x, layer.spec, residual, pass.row_starts);
}

}  // namespace tessera::model
