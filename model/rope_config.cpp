#include "model/rope_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace tessera::model {

namespace {

void read_scaled(const ConfigReader& reader, const ConfigReader& outer, RopeConfig& rope) {
  rope.factor = reader.number("factor", 1.0);
  rope.low_freq_factor = reader.number("low_freq_factor", 1.0);
  rope.high_freq_factor = reader.number("high_freq_factor", 4.0);
  rope.beta_fast = reader.number("beta_fast", 32.0);
  rope.beta_slow = reader.number("beta_slow", 1.0);
  rope.mscale = reader.number("mscale", 0.0);
  rope.mscale_all_dim = reader.number("mscale_all_dim", 0.0);
  rope.truncate = reader.boolean("truncate", true);
  if (reader.has("attention_factor")) rope.given_attention_factor = reader.number("attention_factor", 1.0);
  if (rope.type == "llama3") {
    rope.original_max_position_embeddings = reader.required("original_max_position_embeddings");
  } else {
    const int64_t fallback = reader.integer("original_max_position_embeddings", outer.integer("max_position_embeddings", 2048));
    rope.original_max_position_embeddings = outer.integer("original_max_position_embeddings", fallback);
  }
}

double mscale_of(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

void scale_llama3(const RopeConfig& rope, std::vector<double>& frequencies) {
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
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

/// Low dimensions keep their frequency, high ones are slowed by `factor`, with a ramp between.
void scale_yarn(const RopeConfig& rope, int64_t dim, std::vector<double>& frequencies) {
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  const auto turning_dim = [&](double turns) {
    return static_cast<double>(dim) * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
  };
  double low = turning_dim(rope.beta_fast), high = turning_dim(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double slowed = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / rope.factor * slowed + frequencies[i] * (1 - slowed);
  }
}

}  // namespace

RopeConfig RopeConfig::read(const ConfigReader& reader, double default_theta) {
  RopeConfig rope;
  rope.theta = reader.number("rope_theta", default_theta);
  if (reader.number("partial_rotary_factor", 1.0) != 1.0) reader.fail("partial_rotary_factor", "other than 1 is not supported");
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!reader.has(key)) continue;
    const auto& object = reader.object()[key];
    if (!object.is_object()) reader.fail(key, "must be an object");
    const ConfigReader inner(object, reader.source() + ": " + key);
    rope.theta = inner.number("rope_theta", rope.theta);
    if (inner.number("partial_rotary_factor", 1.0) != 1.0) inner.fail("partial_rotary_factor", "other than 1 is not supported");
    const std::string type = inner.text("rope_type", inner.text("type", "default"));
    if (type == "default") continue;
    if (type != "llama3" && type != "yarn")
      throw ConfigError(reader.source() + ": " + key + ".rope_type '" + type + "' is not supported; known: default, llama3, yarn");
    rope.type = type;
    read_scaled(inner, reader, rope);
  }
  return rope;
}

void RopeConfig::validate(const std::string& source) const {
  const auto positive = [&](const char* key, double value) {
    if (!(value > 0)) throw ConfigError(detail::concat(source, ": '", key, "' = ", value, " must be positive"));
  };
  positive("rope_theta", theta);
  if (type == "default") return;
  positive("rope factor", factor);
  positive("original_max_position_embeddings", static_cast<double>(original_max_position_embeddings));
  if (type == "llama3") {
    positive("low_freq_factor", low_freq_factor);
    positive("high_freq_factor", high_freq_factor);
  } else {
    positive("beta_fast", beta_fast);
    positive("beta_slow", beta_slow);
  }
}

std::vector<double> RopeConfig::inverse_frequencies(int64_t dim) const {
  std::vector<double> frequencies(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i)
    frequencies[i] = 1.0 / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(dim));
  if (type == "llama3") scale_llama3(*this, frequencies);
  if (type == "yarn") scale_yarn(*this, dim, frequencies);
  return frequencies;
}

double RopeConfig::attention_factor() const {
  if (type != "yarn") return 1.0;
  if (given_attention_factor) return *given_attention_factor;
  if (mscale != 0 && mscale_all_dim != 0) return mscale_of(factor, mscale) / mscale_of(factor, mscale_all_dim);
  return mscale_of(factor, 1.0);
}

double RopeConfig::latent_scale() const {
  if (type == "default" || mscale_all_dim == 0) return 1.0;
  const double m = mscale_of(factor, mscale_all_dim);
  return m * m;
}

}  // namespace tessera::model
