#include "model/lora.h"

#include <cmath>
#include <set>

#include "core/error.h"
#include "core/hash.h"
#include "core/random.h"
#include "core/text.h"

namespace tessera::model {

namespace {

std::string last_name(const std::string& name) { return name.substr(name.rfind('.') + 1); }

/// PEFT adapts linears; routed experts are none in the files' newer form, and few adapters would be trained well.
void refuse_experts(const CausalLM& model, const LoraConfig& config) {
  if (!model.config().has_experts()) return;
  const ExpertNames& names = model.config().expert_names;
  for (const auto& target : config.target_modules)
    if (target == names.gate || target == names.up || target == names.down)
      throw ConfigError("model.lora.target_modules: '" + target + "' are the model's experts, which take no adapters; name layers of the "
                        "attention, for instance o_proj");
}

/// Uniform in [-1/sqrt(in), 1/sqrt(in)]: what PEFT's kaiming_uniform_(a = sqrt(5)) amounts to.
void fill_a(at::Tensor a, uint64_t seed) {
  constexpr uint32_t kSite = 0x4C4F5241;  // "LORA"
  const double bound = 1.0 / std::sqrt(static_cast<double>(a.size(1)));
  float* values = a.data_ptr<float>();
  for (int64_t i = 0; i < a.numel(); ++i)
    values[i] = static_cast<float>((2.0 * random_uniform(seed, kSite, static_cast<uint64_t>(i)) - 1.0) * bound);
}

}  // namespace

std::set<std::string> add_adapters(CausalLM& model, const LoraConfig& config, uint64_t seed) {
  config.validate();
  refuse_experts(model, config);
  std::set<std::string> known, wanted(config.target_modules.begin(), config.target_modules.end());
  for (const auto& block : model.blocks()) {
    for (LinearLayer* layer : block->linears()) {
      for (const auto& part : layer->parts) {
        known.insert(last_name(part.name));
        if (wanted.count(last_name(part.name)) == 0) continue;
        kernels::LowRankSlice slice;
        slice.a = kernels::make_parameter({config.r, layer->spec.weight->value.size(1)});
        slice.b = kernels::make_parameter({part.out_end - part.out_begin, config.r});
        slice.b->value.zero_();
        fill_a(slice.a->value, seed ^ hash64(block->prefix() + part.name));
        slice.scale = config.scale();
        slice.out_begin = part.out_begin;
        slice.out_end = part.out_end;
        layer->spec.adapters.push_back(std::move(slice));
      }
    }
  }
  return known;
}

void check_targets(const std::set<std::string>& names, const LoraConfig& config) {
  for (const auto& name : config.target_modules)
    if (names.count(name) == 0)
      throw ConfigError("model.lora.target_modules: no layer is called '" + name + "'; known: " + join({names.begin(), names.end()}));
}

void merge_adapters(CausalLM& model) {
  for (const auto& block : model.blocks()) {
    for (LinearLayer* layer : block->linears()) {
      kernels::Parameter& weight = *layer->spec.weight;
      if (!layer->spec.adapters.empty() && weight.codes) {
        weight.value = weight.values();
        weight.codes.reset();
      }
      for (const auto& slice : layer->spec.adapters)
        weight.value.detach().slice(0, slice.out_begin, slice.out_end)
            .addmm_(slice.b->value, slice.a->value, 1.0, slice.scale);
      layer->spec.adapters.clear();
    }
  }
}

}  // namespace tessera::model
