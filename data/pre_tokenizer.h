// Splits text into the words that byte-pair merges stay inside: tokenizer.json's "pre_tokenizer".
// The patterns of GPT-2, Llama 3 and Qwen 2 run as hand-written scanners; any other goes through
// PCRE2.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/normalizer.h"
#include "data/regex.h"

namespace tessera::data {

/// A word: bytes [begin, end) of the text.
struct Piece {
  size_t begin, end;
  bool operator==(const Piece&) const = default;
};

struct PreTokenizerScratch {
  RegexScratch regex;
  std::vector<Piece> pieces, next, matches;
  std::vector<bool> is_match;
};

class PreTokenizer final {
 public:
  /// `spec` is the "pre_tokenizer" object or null. Throws ConfigError, opening with `where`, for
  /// what is not supported.
  PreTokenizer(const nlohmann::json& spec, std::string_view where);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  /// The words of valid UTF-8, left in scratch.pieces.
  void split(std::string_view text, PreTokenizerScratch& scratch) const;

  /// Words are sequences of bytes, not of characters.
  [[nodiscard]] bool byte_level() const { return byte_level_seen_; }
  /// The text that is split instead of this part of a text: ByteLevel may add a space, Metaspace
  /// makes every space a visible character. Returns `text` itself, with the alignment left as it
  /// is, or `storage`.
  [[nodiscard]] std::string_view prepare(std::string_view text, bool begins_the_text,
                                         std::string& storage, Alignment& alignment) const;

 private:
  struct Step;
  enum class Prefix { kNever, kFirst, kAlways };
  void add_byte_level(const nlohmann::json& spec, std::string_view where);
  void add_metaspace(const nlohmann::json& spec, std::string_view where);
  void add(const nlohmann::json& spec, std::string_view where);
  void add_split(const nlohmann::json& spec, std::string_view where);
  std::vector<Step> steps_;
  std::string
      space_;  // what Metaspace writes for a space; with ByteLevel the space that begins a text
  Prefix prefix_ = Prefix::kNever;
  bool byte_level_seen_ = false, metaspace_seen_ = false;
};

}  // namespace tessera::data
