// The expressions of a chat template: the lower half of the parser.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/jinja_ast.h"
#include "data/jinja_lexer.h"

namespace tessera::data::jinja {

class ExpressionParser {
 protected:
  static constexpr int kMaxDepth = 150;

  ExpressionParser(std::vector<Token> tokens, const std::string& name)
      : tokens_(std::move(tokens)), name_(name) {}

  struct Deeper {
    explicit Deeper(ExpressionParser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxDepth) parser_.fail("nested deeper than ", kMaxDepth, " levels");
    }
    ~Deeper() { --parser_.depth_; }
    ExpressionParser& parser_;
  };

  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw ConfigError(tessera::detail::concat(name_, ":", peek().line, ": ", parts...));
  }

  [[nodiscard]] const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& take() { return tokens_[std::min(at_++, tokens_.size() - 1)]; }
  [[nodiscard]] bool is_operator(std::string_view text) const {
    return peek().kind == TokenKind::kOperator && peek().text == text;
  }
  [[nodiscard]] bool is_name(std::string_view text) const {
    return peek().kind == TokenKind::kName && peek().text == text;
  }
  bool accept(std::string_view text);
  bool accept_name(std::string_view text);
  void expect(std::string_view text);
  std::string expect_name();
  [[nodiscard]] NodePtr make(Kind kind, std::string text = "") const;

  NodePtr expression();
  NodePtr or_expression();
  /// One expression, or several with commas between them: a list.
  NodePtr tuple();
  NodePtr postfix(NodePtr value);
  NodePtr primary();
  /// "| name(arguments)" and "is name" behind `value`.
  NodePtr filters_and_tests(NodePtr value);
  void arguments(Node& node);

  std::vector<Token> tokens_;
  const std::string& name_;
  size_t at_ = 0;
  int depth_ = 0;

 private:
  template <typename Next>
  NodePtr chain(std::initializer_list<std::string_view> operators, Next next);
  NodePtr binary(std::string op, NodePtr left, NodePtr right) const;
  NodePtr not_expression();
  NodePtr comparison();
  NodePtr sum();
  NodePtr power();
  NodePtr unary(bool filters);
  NodePtr number();
  NodePtr list_literal();
  NodePtr dict_literal();
  NodePtr name_or_constant();
  NodePtr subscript(NodePtr value);
  NodePtr test(NodePtr value);
};

}  // namespace tessera::data::jinja
