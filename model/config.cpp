#include "model/config.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/file.h"

namespace tessera::model {

namespace {

using nlohmann::json;

/// Reads keys of one JSON object; every complaint names the file and the key.
class Reader {
 public:
  Reader(const json& object, std::string source) : object_(object), source_(std::move(source)) {}

  [[nodiscard]] bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }

  int64_t integer(const char* key, int64_t fallback) const {
    if (!has(key)) return fallback;
    if (!object_[key].is_number_integer()) fail(key, "must be an integer");
    return object_[key].get<int64_t>();
  }
  int64_t required(const char* key) const {
    if (!has(key)) fail(key, "is missing");
    return integer(key, 0);
  }
  double number(const char* key, double fallback) const {
    if (!has(key)) return fallback;
    if (!object_[key].is_number()) fail(key, "must be a number");
    return object_[key].get<double>();
  }
  bool boolean(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!object_[key].is_boolean()) fail(key, "must be true or false");
    return object_[key].get<bool>();
  }
  std::string text(const char* key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    if (!object_[key].is_string()) fail(key, "must be a string");
    return object_[key].get<std::string>();
  }
  [[noreturn]] void fail(const char* key, const std::string& what) const {
    throw ConfigError(source_ + ": '" + key + "' " + what);
  }

 private:
  const json& object_;
  std::string source_;
};

RopeConfig read_rope(const json& object, const std::string& source) {
  RopeConfig rope;
  rope.theta = Reader(object, source).number("rope_theta", 10000.0);
  // transformers 5 writes rope_parameters (theta inside), transformers 4 rope_scaling.
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!object.contains(key) || object[key].is_null()) continue;
    if (!object[key].is_object()) throw ConfigError(source + ": '" + key + "' must be an object");
    const Reader reader(object[key], source + ": " + key);
    rope.theta = reader.number("rope_theta", rope.theta);
    rope.type = reader.text("rope_type", reader.text("type", "default"));
    if (rope.type == "default") continue;
    if (rope.type != "llama3")
      throw ConfigError(source + ": " + key + ".rope_type '" + rope.type + "' is not supported for llama; known: default, llama3");
    rope.factor = reader.number("factor", 1.0);
    rope.low_freq_factor = reader.number("low_freq_factor", 1.0);
    rope.high_freq_factor = reader.number("high_freq_factor", 4.0);
    rope.original_max_position_embeddings = reader.required("original_max_position_embeddings");
  }
  return rope;
}

void refuse_unsupported(const Reader& reader) {
  const std::string activation = reader.text("hidden_act", "silu");
  if (activation != "silu") reader.fail("hidden_act", "'" + activation + "' is not supported; known: silu");
  if (reader.number("attention_dropout", 0) != 0) reader.fail("attention_dropout", "is not supported; set it to 0");
  if (reader.has("sliding_window") && reader.boolean("use_sliding_window", true))
    reader.fail("sliding_window", "is not supported");
  if (reader.has("quantization_config")) reader.fail("quantization_config", "is not supported; give unquantised weights");
  if (reader.integer("pretraining_tp", 1) != 1) reader.fail("pretraining_tp", "other than 1 is not supported");
}

}  // namespace

ModelConfig ModelConfig::from_json(const json& object, const std::string& source) {
  if (!object.is_object()) throw ConfigError(source + ": not a JSON object");
  const Reader reader(object, source);
  ModelConfig c;
  c.raw = object;
  c.model_type = reader.text("model_type", "");
  if (c.model_type != "llama")
    throw ConfigError(source + ": model_type '" + c.model_type + "' is not supported; known: llama");
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
  c.attention_bias = reader.boolean("attention_bias", false);
  c.mlp_bias = reader.boolean("mlp_bias", false);
  c.rope = read_rope(object, source);
  if (reader.has("eos_token_id")) {
    const json& eos = object["eos_token_id"];
    for (const auto& id : eos.is_array() ? eos : json::array({eos})) {
      if (!id.is_number_integer()) reader.fail("eos_token_id", "must be an integer or a list of integers");
      c.eos_token_ids.push_back(id.get<int32_t>());
    }
  }
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
  const auto positive = [&](int64_t value, const char* key) {
    if (value <= 0 || value > (int64_t{1} << 31))
      throw ConfigError(detail::concat(source, ": '", key, "' = ", value, " must be a positive number"));
  };
  positive(vocab_size, "vocab_size");
  positive(hidden_size, "hidden_size");
  positive(intermediate_size, "intermediate_size");
  positive(num_hidden_layers, "num_hidden_layers");
  positive(num_attention_heads, "num_attention_heads");
  positive(num_key_value_heads, "num_key_value_heads");
  positive(head_dim, "head_dim");
  positive(max_position_embeddings, "max_position_embeddings");
  if (num_attention_heads % num_key_value_heads != 0)
    throw ConfigError(detail::concat(source, ": num_key_value_heads = ", num_key_value_heads,
                                     " must divide num_attention_heads = ", num_attention_heads));
  const auto check = [&](bool holds, const char* key, double value, const char* what) {
    if (!holds) throw ConfigError(detail::concat(source, ": '", key, "' = ", value, " must be ", what));
  };
  check(rms_norm_eps >= 0, "rms_norm_eps", rms_norm_eps, "0 or more");
  check(initializer_range >= 0, "initializer_range", initializer_range, "0 or more");
  check(rope.theta > 0, "rope_theta", rope.theta, "positive");
  if (rope.type == "llama3") {
    check(rope.factor > 0, "rope factor", rope.factor, "positive");
    check(rope.low_freq_factor > 0, "low_freq_factor", rope.low_freq_factor, "positive");
    check(rope.high_freq_factor > 0, "high_freq_factor", rope.high_freq_factor, "positive");
    check(rope.original_max_position_embeddings > 0, "original_max_position_embeddings",
          static_cast<double>(rope.original_max_position_embeddings), "positive");
  }
  if (head_dim % 2 != 0) throw ConfigError(detail::concat(source, ": head_dim = ", head_dim, " must be even for RoPE"));
}

std::vector<double> ModelConfig::inverse_frequencies() const {
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i)
    frequencies[i] = 1.0 / std::pow(rope.theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  if (rope.type == "llama3") {
    const double original = static_cast<double>(rope.original_max_position_embeddings);
    for (double& f : frequencies) {
      const double wavelength = 2 * std::numbers::pi / f;
      if (wavelength > original / rope.low_freq_factor) {
        f /= rope.factor;
      } else if (wavelength >= original / rope.high_freq_factor) {
        const double smooth = (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
        f = (1 - smooth) * f / rope.factor + smooth * f;
      }
    }
  }
  return frequencies;
}

int64_t ModelConfig::matmul_parameters() const {
  const int64_t attention = hidden_size * head_dim * (2 * num_attention_heads + 2 * num_key_value_heads);
  return num_hidden_layers * (attention + 3 * hidden_size * intermediate_size) + vocab_size * hidden_size;
}

}  // namespace tessera::model
