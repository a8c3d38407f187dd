// tokenizer.json's "normalizer": the Unicode normal forms (utf8proc), and the rewriting of spaces
// that SentencePiece models ask for.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/regex.h"

namespace tessera::data {

/// Where a rewritten text comes from: its first i bytes stand for the first alignment[i] bytes of
/// the source.
using Alignment = std::vector<size_t>;

/// `text` with each match of `from` replaced. `alignment` may be null.
[[nodiscard]] std::string replace_text(std::string_view text, std::string_view from,
                                       std::string_view to, Alignment* alignment);

class Normalizer final {
 public:
  Normalizer();
  ~Normalizer();
  Normalizer(Normalizer&&) noexcept;
  Normalizer& operator=(Normalizer&&) noexcept;
  /// Throws ConfigError, opening with `where`, for anything but null, NFC, NFD, NFKC, NFKD, then
  /// Prepend and Replace, and a Sequence of them.
  Normalizer(const nlohmann::json& spec, std::string_view where);

  [[nodiscard]] bool has_forms() const { return !forms_.empty(); }
  [[nodiscard]] bool has_rewrites() const;
  /// The Unicode forms. `text` is valid UTF-8.
  [[nodiscard]] std::string compose(std::string_view text) const;
  /// What comes behind them: Prepend and Replace. `alignment` may be null.
  [[nodiscard]] std::string rewrite(std::string_view text, Alignment* alignment) const;
  /// Both.
  [[nodiscard]] std::string apply(std::string_view text) const {
    return rewrite(compose(text), nullptr);
  }

 private:
  struct Rewrite;
  void add(const nlohmann::json& spec, std::string_view where);
  void add_replace(const nlohmann::json& spec, std::string_view where);
  std::vector<int> forms_;  // utf8proc options
  std::vector<Rewrite> rewrites_;
};

}  // namespace tessera::data
