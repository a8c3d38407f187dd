// tokenizer.json's "decoder" for models of characters: how the tokens of an answer become text.
// Byte-level models need none of this: their text is the tokens' bytes.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/regex.h"

namespace tessera::data {

class Decoder final {
 public:
  Decoder();
  ~Decoder();
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;
  /// `spec`: null, Metaspace, Replace, ByteFallback, Fuse, Strip or a Sequence of them. Throws
  /// ConfigError, opening with `where`, for anything else.
  Decoder(const nlohmann::json& spec, std::string_view where);

  /// The text of the tokens, as tokenizer.json spells them.
  [[nodiscard]] std::string apply(std::vector<std::string> tokens) const;

 private:
  struct Step;
  void add(const nlohmann::json& spec, std::string_view where);
  std::vector<Step> steps_;
  bool joined_by_spaces_ = true;  // without any decoder
};

/// The byte that "<0x0A>" stands for, or -1.
[[nodiscard]] int byte_of_token(std::string_view token);

}  // namespace tessera::data
