// tokenizer.json's "normalizer": the Unicode normal forms (utf8proc).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

class Normalizer final {
 public:
  Normalizer() = default;
  /// Throws ConfigError, opening with `where`, for anything but null, NFC, NFD, NFKC, NFKD and a
  /// Sequence of them.
  Normalizer(const nlohmann::json& spec, std::string_view where);

  [[nodiscard]] bool empty() const { return forms_.empty(); }
  /// `text` is valid UTF-8.
  [[nodiscard]] std::string apply(std::string_view text) const;

 private:
  void add(const nlohmann::json& spec, std::string_view where);
  std::vector<int> forms_;  // utf8proc options
};

}  // namespace tessera::data
