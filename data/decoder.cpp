#include "data/decoder.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "core/error.h"
#include "data/normalizer.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {
enum class Kind { kMetaspace, kReplace, kByteFallback, kFuse, kStrip };

std::string string_of(const nlohmann::json& spec, const char* key, const char* fallback) {
  const auto found = spec.find(key);
  return found != spec.end() && found->is_string() ? found->get<std::string>() : fallback;
}

int64_t count_of(const nlohmann::json& spec, const char* key) {
  const auto found = spec.find(key);
  return found != spec.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

// Runs of byte tokens become characters; bytes that are not UTF-8 become one U+FFFD each.
void join_bytes(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (is_valid_utf8(bytes)) {
      out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), "\uFFFD");
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const int byte = byte_of_token(token); byte >= 0) {
      bytes += static_cast<char>(byte);
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens.swap(out);
}
}  // namespace

int byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const std::string digits(token.substr(3, 2));
  if (digits.find_first_not_of("0123456789ABCDEFabcdef") != std::string::npos) return -1;
  return static_cast<int>(std::strtol(digits.c_str(), nullptr, 16));
}

struct Decoder::Step {
  Kind kind;
  std::string text;  // kStrip, kMetaspace: the character
  std::unique_ptr<Normalizer> replace;
  int64_t start = 0, stop = 0;  // kStrip: how many characters at most
  bool prefixed = false;  // kMetaspace: the first token's leading space is not part of the text

  void apply(std::vector<std::string>& tokens) const;
  void strip(std::string& token) const;
};

Decoder::Decoder() = default;
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

Decoder::Decoder(const nlohmann::json& spec, std::string_view where)
    : joined_by_spaces_(spec.is_null()) {
  if (!spec.is_null()) add(spec, where);
}

void Decoder::add(const nlohmann::json& spec, std::string_view where) {
  const std::string name = spec.is_object() ? string_of(spec, "type", "") : "";
  if (name == "Sequence" && spec.contains("decoders") && spec["decoders"].is_array()) {
    for (const auto& item : spec["decoders"]) add(item, where);
    return;
  }
  Step step{};
  if (name == "Metaspace") {
    step.kind = Kind::kMetaspace;
    step.text = string_of(spec, "replacement", "\u2581");
    const bool old = !spec.contains("add_prefix_space") || spec["add_prefix_space"] != false;
    step.prefixed = string_of(spec, "prepend_scheme", old ? "always" : "never") != "never";
  } else if (name == "Replace") {
    step.kind = Kind::kReplace;
    step.replace = std::make_unique<Normalizer>(spec, where);
  } else if (name == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (name == "Fuse") {
    step.kind = Kind::kFuse;
  } else if (name == "Strip") {
    step.kind = Kind::kStrip;
    step.text = string_of(spec, "content", " ");
    step.start = count_of(spec, "start");
    step.stop = count_of(spec, "stop");
  } else {
    throw ConfigError(detail::concat(where, ": decoder \"", name,
                                     "\" is not supported (supported: ByteLevel for byte-level "
                                     "models; Metaspace, Replace, ByteFallback, Fuse, Strip, "
                                     "Sequence for others)"));
  }
  steps_.push_back(std::move(step));
}

void Decoder::Step::strip(std::string& token) const {
  for (int64_t i = 0; i < start && !text.empty() && token.starts_with(text); ++i)
    token.erase(0, text.size());
  for (int64_t i = 0; i < stop && !text.empty() && token.ends_with(text); ++i)
    token.resize(token.size() - text.size());
}

void Decoder::Step::apply(std::vector<std::string>& tokens) const {
  switch (kind) {
    case Kind::kByteFallback:
      return join_bytes(tokens);
    case Kind::kFuse: {
      std::string all;
      for (const std::string& token : tokens) all += token;
      tokens.assign(1, std::move(all));
      return;
    }
    case Kind::kReplace:
      for (std::string& token : tokens) token = replace->rewrite(token, nullptr);
      return;
    case Kind::kStrip:
      for (std::string& token : tokens) strip(token);
      return;
    case Kind::kMetaspace:
      for (size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = replace_text(tokens[i], text, i == 0 && prefixed ? "" : " ", nullptr);
      return;
  }
}

std::string Decoder::apply(std::vector<std::string> tokens) const {
  for (const Step& step : steps_) step.apply(tokens);
  std::string out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (joined_by_spaces_ && i > 0) out += ' ';
    out += tokens[i];
  }
  return out;
}

}  // namespace tessera::data
