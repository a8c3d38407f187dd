// A compiled regular expression (PCRE2, JIT, UTF and Unicode properties) in the dialect of
// tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace tessera::data {

/// Per-thread working memory of matches; any Regex may use it.
class RegexScratch final {
 public:
  /// `match_limit` bounds the steps of one match, 0: as generous as tokenizers need.
  explicit RegexScratch(uint32_t match_limit = 0);
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

/// kTokenizer: as Hugging Face's tokenizers read a pattern. kPcre2: as PCRE2 does, for patterns that users write.
enum class RegexDialect { kTokenizer, kPcre2 };

class Regex final {
 public:
  /// Of kTokenizer, Oniguruma's \s, \S, \w are rewritten to mean the same here; \h and \X.. classes that differ
  /// are refused. Throws ConfigError, opening with `where`, on a pattern that does not compile.
  Regex(const std::string& pattern, std::string_view where,
        RegexDialect dialect = RegexDialect::kTokenizer);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// First match at or after `from` in valid UTF-8: byte range, or {npos, npos}. Throws ConfigError
  /// when the pattern backtracks without end.
  [[nodiscard]] std::pair<size_t, size_t> find(std::string_view text, size_t from,
                                               RegexScratch& scratch) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

/// The rewriting alone, for tests.
[[nodiscard]] std::string translate_pattern(const std::string& pattern, std::string_view where);

}  // namespace tessera::data
