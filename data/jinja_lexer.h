// Cuts a chat template into text and the tokens of its tags.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera::data::jinja {

enum class TokenKind {
  kText,
  kOutputBegin,
  kOutputEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  std::string text;
  int line;
};

/// Throws ConfigError "name:line: ...".
[[nodiscard]] std::vector<Token> tokenize_template(std::string_view source,
                                                   const std::string& name);

}  // namespace tessera::data::jinja
