// Splits text into the words that byte-pair merges stay inside: tokenizer.json's "pre_tokenizer".
// The patterns of GPT-2, Llama 3 and Qwen 2 run as hand-written scanners; any other goes through
// PCRE2.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

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
  /// `spec` is the "pre_tokenizer" object. Throws ConfigError, opening with `where`, for what is
  /// not supported and when no ByteLevel step is there.
  PreTokenizer(const nlohmann::json& spec, std::string_view where);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  /// The words of valid UTF-8, left in scratch.pieces.
  void split(std::string_view text, PreTokenizerScratch& scratch) const;

  /// A space goes before a text that does not begin with one.
  [[nodiscard]] bool add_prefix_space() const { return add_prefix_space_; }

 private:
  struct Step;
  void add(const nlohmann::json& spec, std::string_view where);
  void add_split(const nlohmann::json& spec, std::string_view where);
  std::vector<Step> steps_;
  bool add_prefix_space_ = false;
  bool byte_level_seen_ = false;
};

}  // namespace tessera::data
