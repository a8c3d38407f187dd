#include "model/lora_config.h"

#include "core/error.h"

namespace tessera::model {

void LoraConfig::validate() const {
  constexpr int64_t kHighestRank = 1 << 16;
  if (r > kHighestRank) throw ConfigError(detail::concat("model.lora.r = ", r, " must be at most ", kHighestRank));
  if (r <= 0) throw ConfigError(detail::concat("model.lora.r = ", r, " must be positive, for instance 16"));
  if (!(alpha > 0)) throw ConfigError(detail::concat("model.lora.alpha = ", alpha, " must be positive, for instance 32"));
  if (dropout != 0)
    throw ConfigError(detail::concat("model.lora.dropout = ", dropout, " is not supported; set it to 0"));
  if (base != "float32" && base != "fp8")
    throw ConfigError("model.lora.base = '" + base + "' is not known; use one of float32, fp8");
  if (target_modules.empty()) throw ConfigError("model.lora.target_modules is empty; name at least one, for instance q_proj");
}

}  // namespace tessera::model
