#include "model/config.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "model/families/families.h"

namespace tessera::model {

namespace {

using nlohmann::json;

void refuse_unsupported(const ConfigReader& reader) {
  const std::string activation = reader.text("hidden_act", "silu");
  if (activation != "silu") reader.fail("hidden_act", "'" + activation + "' is not supported; known: silu");
  if (reader.number("attention_dropout", 0) != 0) reader.fail("attention_dropout", "is not supported; set it to 0");
  if (reader.integer("pretraining_tp", 1) != 1) reader.fail("pretraining_tp", "other than 1 is not supported");
  if (reader.has("layer_types") && reader.object()["layer_types"].is_array())
    for (const json& type : reader.object()["layer_types"])
      if (type != "full_attention") reader.fail("layer_types", "with " + type.dump() + " is not supported");
}

BlockQuantization read_quantization(const ConfigReader& reader) {
  if (!reader.has("quantization_config")) return {};
  const json& object = reader.object()["quantization_config"];
  if (!object.is_object() || object.value("quant_method", json()) != "fp8")
    reader.fail("quantization_config", "is not supported; known is quant_method fp8 with weight_block_size; else give unquantised weights");
  const ConfigReader inner(object, reader.source() + ": quantization_config");
  inner.only("fmt", {"e4m3"});
  const auto block = inner.integers("weight_block_size");
  if (block.size() != 2 || block[0] <= 0 || block[1] <= 0) inner.fail("weight_block_size", "must be two positive numbers, for instance [128, 128]");
  return {block[0], block[1]};
}

/// What all families call alike.
void read_common(const ConfigReader& reader, ModelConfig& c) {
  refuse_unsupported(reader);
  c.vocab_size = reader.required("vocab_size");
  c.hidden_size = reader.required("hidden_size");
  c.intermediate_size = reader.required("intermediate_size");
  c.num_hidden_layers = reader.required("num_hidden_layers");
  c.num_attention_heads = reader.required("num_attention_heads");
  c.num_key_value_heads = reader.integer("num_key_value_heads", c.num_attention_heads);
  c.head_dim = reader.integer("head_dim", c.num_attention_heads > 0 ? c.hidden_size / c.num_attention_heads : 0);
  c.max_position_embeddings = reader.integer("max_position_embeddings", 2048);
  c.rms_norm_eps = reader.number("rms_norm_eps", 1e-6);
  c.initializer_range = reader.number("initializer_range", 0.02);
  c.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);
  c.quantization = read_quantization(reader);
  if (!reader.has("eos_token_id")) return;
  const json& eos = reader.object()["eos_token_id"];
  for (const auto& id : eos.is_array() ? eos : json::array({eos})) {
    if (!id.is_number_integer()) reader.fail("eos_token_id", "must be an integer or a list of integers");
    c.eos_token_ids.push_back(id.get<int32_t>());
  }
}

/// Complains about values out of range.
class Checker final {
 public:
  explicit Checker(const std::string& source) : source_(source) {}
  void positive(int64_t value, const char* key) const {
    if (value <= 0 || value > (int64_t{1} << 31))
      throw ConfigError(detail::concat(source_, ": '", key, "' = ", value, " must be a positive number"));
  }
  void require(bool holds, const std::string& message) const {
    if (!holds) throw ConfigError(source_ + ": " + message);
  }

 private:
  const std::string& source_;
};

void validate_experts(const ModelConfig& c, const Checker& check) {
  const moe::MoeConfig& m = c.moe;
  check.positive(m.num_experts, "number of experts");
  check.positive(m.intermediate_size, "moe_intermediate_size");
  check.require(m.shared_intermediate_size >= 0, "the shared experts' width must be 0 or more");
  check.require(m.experts_per_token >= 1 && m.experts_per_token <= m.num_experts,
                detail::concat("num_experts_per_tok = ", m.experts_per_token, " must be between 1 and the number of experts, ", m.num_experts));
  check.require(m.num_groups >= 1 && m.num_experts % m.num_groups == 0,
                detail::concat("n_group = ", m.num_groups, " must divide the number of experts, ", m.num_experts));
  check.require(m.topk_groups >= 1 && m.topk_groups <= m.num_groups,
                detail::concat("topk_group = ", m.topk_groups, " must be between 1 and n_group = ", m.num_groups));
  check.require(m.topk_groups * (m.num_experts / m.num_groups) >= m.experts_per_token,
                detail::concat("topk_group = ", m.topk_groups, " groups hold fewer than num_experts_per_tok = ", m.experts_per_token, " experts"));
  check.require(m.group_score != moe::GroupScore::kTopTwoSum || m.num_groups == 1 || m.num_experts / m.num_groups >= 2,
                detail::concat("n_group = ", m.num_groups, " leaves fewer than two experts a group"));
}

void validate_attention(const ModelConfig& c, const Checker& check) {
  if (c.attention == AttentionKind::kLatent) {
    check.require(c.latent.q_lora_rank >= 0, "'q_lora_rank' must be null or positive");
    check.positive(c.latent.kv_lora_rank, "kv_lora_rank");
    check.positive(c.latent.qk_nope_head_dim, "qk_nope_head_dim");
    check.positive(c.latent.qk_rope_head_dim, "qk_rope_head_dim");
    check.positive(c.latent.v_head_dim, "v_head_dim");
    check.require(c.latent.qk_rope_head_dim % 2 == 0, detail::concat("qk_rope_head_dim = ", c.latent.qk_rope_head_dim, " must be even"));
    check.require(c.num_key_value_heads == c.num_attention_heads, "with latent attention num_key_value_heads must be num_attention_heads");
    check.require(!c.attention_bias || c.latent.q_lora_rank > 0, "'attention_bias' without 'q_lora_rank' is not supported");
    return;
  }
  check.positive(c.head_dim, "head_dim");
  check.require(c.num_attention_heads % c.num_key_value_heads == 0,
                detail::concat("num_key_value_heads = ", c.num_key_value_heads, " must divide num_attention_heads = ", c.num_attention_heads));
  check.require(c.head_dim % 2 == 0, detail::concat("head_dim = ", c.head_dim, " must be even for RoPE"));
}

int64_t attention_parameters(const ModelConfig& c) {
  if (c.attention == AttentionKind::kGrouped)
    return c.hidden_size * c.head_dim * (2 * c.num_attention_heads + 2 * c.num_key_value_heads);
  const LatentConfig& l = c.latent;
  const int64_t q = c.num_attention_heads * l.qk_head_dim();
  const int64_t query = l.q_lora_rank > 0 ? l.q_lora_rank * (c.hidden_size + q) : c.hidden_size * q;
  return query + c.hidden_size * (l.kv_lora_rank + l.qk_rope_head_dim) +
         l.kv_lora_rank * c.num_attention_heads * (l.qk_nope_head_dim + l.v_head_dim) + c.num_attention_heads * l.v_head_dim * c.hidden_size;
}

}  // namespace

ModelConfig ModelConfig::from_json(const json& object, const std::string& source) {
  if (!object.is_object()) throw ConfigError(source + ": not a JSON object");
  const ConfigReader reader(object, source);
  ModelConfig c;
  c.raw = object;
  c.model_type = reader.text("model_type", "");
  const Family* family = find_family(c.model_type);
  if (family == nullptr)
    throw ConfigError(source + ": model_type '" + c.model_type + "' is not supported; known: " + join(family_names()));
  read_common(reader, c);
  family->read(reader, c);
  c.validate(source);
  return c;
}

ModelConfig ModelConfig::load(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  if (!std::filesystem::exists(path))
    throw ConfigError(path.string() + " does not exist; model.path must be a Hugging Face model folder");
  const json object = json::parse(read_text_file(path), nullptr, false);
  if (object.is_discarded()) throw ConfigError(path.string() + ": not valid JSON");
  return from_json(object, path.string());
}

void ModelConfig::validate(const std::string& source) const {
  const Checker check(source);
  check.positive(vocab_size, "vocab_size");
  check.positive(hidden_size, "hidden_size");
  check.positive(intermediate_size, "intermediate_size");
  check.positive(num_hidden_layers, "num_hidden_layers");
  check.positive(num_attention_heads, "num_attention_heads");
  check.positive(num_key_value_heads, "num_key_value_heads");
  check.positive(max_position_embeddings, "max_position_embeddings");
  check.require(rms_norm_eps >= 0, detail::concat("'rms_norm_eps' = ", rms_norm_eps, " must be 0 or more"));
  check.require(initializer_range >= 0, detail::concat("'initializer_range' = ", initializer_range, " must be 0 or more"));
  check.require(num_mtp_modules >= 0 && num_mtp_modules <= 64, detail::concat("num_nextn_predict_layers = ", num_mtp_modules, " must be between 0 and 64"));
  rope.validate(source);
  validate_attention(*this, check);
  if (has_experts()) validate_experts(*this, check);
}

bool ModelConfig::is_moe_layer(int64_t i) const {
  if (moe_layers.empty()) return false;
  return moe_layers[static_cast<size_t>(std::min(i, num_hidden_layers - 1))];
}

int64_t ModelConfig::matmul_parameters() const {
  int64_t sum = vocab_size * hidden_size;
  for (int64_t i = 0; i < num_hidden_layers; ++i) {
    const int64_t width = is_moe_layer(i) ? moe.experts_per_token * moe.intermediate_size + moe.shared_intermediate_size : intermediate_size;
    sum += attention_parameters(*this) + 3 * hidden_size * width + (is_moe_layer(i) ? moe.num_experts * hidden_size : 0);
  }
  return sum;
}

}  // namespace tessera::model
