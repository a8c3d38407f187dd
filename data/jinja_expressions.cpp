#include "data/jinja_expressions.h"

#include <algorithm>
#include <cstdlib>
#include <set>

namespace tessera::data::jinja {

bool ExpressionParser::accept(std::string_view text) {
  if (!is_operator(text)) return false;
  ++at_;
  return true;
}

bool ExpressionParser::accept_name(std::string_view text) {
  if (!is_name(text)) return false;
  ++at_;
  return true;
}

void ExpressionParser::expect(std::string_view text) {
  if (!accept(text)) fail("expected '", text, "' before '", peek().text, "'");
}

std::string ExpressionParser::expect_name() {
  if (peek().kind != TokenKind::kName) fail("expected a name before '", peek().text, "'");
  return take().text;
}

NodePtr ExpressionParser::make(Kind kind, std::string text) const {
  auto node = std::make_unique<Node>();
  node->kind = kind;
  node->line = peek().line;
  node->text = std::move(text);
  return node;
}

NodePtr ExpressionParser::tuple() {
  NodePtr first = expression();
  if (!is_operator(",")) return first;
  NodePtr list = make(Kind::kList);
  list->children.push_back(std::move(first));
  while (accept(",")) {
    const TokenKind next = peek().kind;
    if (is_operator(")") || next == TokenKind::kBlockEnd || next == TokenKind::kOutputEnd) break;
    list->children.push_back(expression());
  }
  return list;
}

NodePtr ExpressionParser::expression() {
  const Deeper deeper(*this);
  NodePtr value = or_expression();
  while (is_name("if")) {
    NodePtr node = make(Kind::kTernary);
    ++at_;
    node->children.push_back(or_expression());
    node->children.push_back(std::move(value));
    node->children.push_back(accept_name("else") ? expression() : nullptr);
    value = std::move(node);
  }
  return value;
}

NodePtr ExpressionParser::binary(std::string op, NodePtr left, NodePtr right) const {
  NodePtr node = make(Kind::kBinary, std::move(op));
  node->children.push_back(std::move(left));
  node->children.push_back(std::move(right));
  return node;
}

// A long chain of operators is a deep tree: it counts as nesting.
template <typename Next>
NodePtr ExpressionParser::chain(std::initializer_list<std::string_view> operators, Next next) {
  NodePtr left = next();
  int links = 0;
  while (true) {
    const auto matches = [&](std::string_view op) {
      return peek().text == op &&
             (peek().kind == TokenKind::kOperator ||
              (peek().kind == TokenKind::kName && (op == "or" || op == "and")));
    };
    if (std::none_of(operators.begin(), operators.end(), matches)) return left;
    if (++links > kMaxDepth) fail("a chain of more than ", kMaxDepth, " operators");
    std::string op = take().text;
    left = binary(std::move(op), std::move(left), next());
  }
}

NodePtr ExpressionParser::or_expression() {
  return chain({"or"}, [this] { return chain({"and"}, [this] { return not_expression(); }); });
}

NodePtr ExpressionParser::not_expression() {
  const Deeper deeper(*this);
  if (!is_name("not")) return comparison();
  NodePtr node = make(Kind::kUnary, "not");
  ++at_;
  node->children.push_back(not_expression());
  return node;
}

// a < b <= c holds where both comparisons hold; b is computed once.
NodePtr ExpressionParser::comparison() {
  static const std::set<std::string> kOperators = {"==", "!=", "<", "<=", ">", ">="};
  NodePtr first = sum();
  NodePtr node;
  while (true) {
    std::string op;
    if (peek().kind == TokenKind::kOperator && kOperators.contains(peek().text)) {
      op = take().text;
    } else if (accept_name("in")) {
      op = "in";
    } else if (is_name("not") && peek(1).text == "in") {
      at_ += 2;
      op = "not in";
    } else {
      return node == nullptr ? std::move(first) : std::move(node);
    }
    if (node == nullptr) {
      node = make(Kind::kCompare);
      node->children.push_back(std::move(first));
    }
    if (node->names.size() >= kMaxDepth) fail("a chain of more than ", kMaxDepth, " comparisons");
    node->names.push_back(std::move(op));
    node->children.push_back(sum());
  }
}

NodePtr ExpressionParser::sum() {
  return chain({"+", "-"}, [this] {
    return chain({"~"}, [this] {
      return chain({"*", "/", "//", "%"}, [this] { return power(); });
    });
  });
}

NodePtr ExpressionParser::power() {
  return chain({"**"}, [this] { return unary(true); });
}

NodePtr ExpressionParser::unary(bool filters) {
  const Deeper deeper(*this);
  NodePtr value;
  if (is_operator("-") || is_operator("+")) {
    value = make(Kind::kUnary, peek().text);
    ++at_;
    value->children.push_back(unary(false));
  } else {
    value = postfix(primary());
  }
  return filters ? filters_and_tests(std::move(value)) : std::move(value);
}

NodePtr ExpressionParser::primary() {
  switch (peek().kind) {
    case TokenKind::kString: {
      NodePtr node = make(Kind::kLiteral);
      std::string text;
      while (peek().kind == TokenKind::kString) text += take().text;  // adjacent strings are one
      node->literal = text;
      return node;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return number();
    case TokenKind::kName:
      return name_or_constant();
    default:
      break;
  }
  if (accept("(")) {
    if (accept(")")) return make(Kind::kList);
    NodePtr inner = tuple();
    expect(")");
    return inner;
  }
  if (accept("[")) return list_literal();
  if (accept("{")) return dict_literal();
  fail("expected a value before '", peek().text, "'");
}

NodePtr ExpressionParser::number() {
  NodePtr node = make(Kind::kLiteral);
  const Token& token = take();
  if (token.kind == TokenKind::kFloat) {
    node->literal = std::strtod(token.text.c_str(), nullptr);
  } else {
    node->literal = static_cast<int64_t>(std::strtoll(token.text.c_str(), nullptr, 10));
  }
  return node;
}

NodePtr ExpressionParser::list_literal() {
  NodePtr list = make(Kind::kList);
  while (!is_operator("]")) {
    list->children.push_back(expression());
    if (!accept(",")) break;
  }
  expect("]");
  return list;
}

NodePtr ExpressionParser::dict_literal() {
  NodePtr dict = make(Kind::kDict);
  while (!is_operator("}")) {
    dict->children.push_back(expression());
    expect(":");
    dict->children.push_back(expression());
    if (!accept(",")) break;
  }
  expect("}");
  return dict;
}

NodePtr ExpressionParser::name_or_constant() {
  static const std::set<std::string> kReserved = {"if", "else", "and",  "or", "not",
                                                  "in", "is",   "elif", "for"};
  const std::string& text = peek().text;
  if (kReserved.contains(text)) fail("unexpected '", text, "'");
  NodePtr node = make(Kind::kLiteral);
  if (text == "true" || text == "True") {
    node->literal = true;
  } else if (text == "false" || text == "False") {
    node->literal = false;
  } else if (text != "none" && text != "None") {
    node->kind = Kind::kName;
    node->text = text;
  }
  ++at_;
  return node;
}

NodePtr ExpressionParser::postfix(NodePtr value) {
  int links = 0;
  while (true) {
    if (!is_operator(".") && !is_operator("[") && !is_operator("(")) return value;
    if (++links > kMaxDepth) fail("a chain of more than ", kMaxDepth, " accesses");
    if (is_operator(".") && peek(1).kind == TokenKind::kInteger) {
      ++at_;
      NodePtr node = make(Kind::kSubscript);
      node->children.push_back(std::move(value));
      node->children.push_back(number());
      value = std::move(node);
    } else if (accept(".")) {
      NodePtr node = make(Kind::kAttribute, expect_name());
      node->children.push_back(std::move(value));
      value = std::move(node);
    } else if (accept("[")) {
      value = subscript(std::move(value));
    } else {
      NodePtr node = make(Kind::kCall);
      node->children.push_back(std::move(value));
      arguments(*node);
      value = std::move(node);
    }
  }
}

NodePtr ExpressionParser::subscript(NodePtr value) {
  NodePtr node = make(Kind::kSubscript);
  node->children.push_back(std::move(value));
  node->children.push_back(is_operator(":") ? nullptr : expression());
  if (is_operator(":")) {
    node->kind = Kind::kSlice;
    while (accept(":")) {
      const bool empty = is_operator(":") || is_operator("]");
      node->children.push_back(empty ? nullptr : expression());
    }
    if (node->children.size() > 4) fail("a slice has at most three parts");
    node->children.resize(4);
  }
  expect("]");
  return node;
}

// "(" positional and name=value ")" appended to a call, filter or test.
void ExpressionParser::arguments(Node& node) {
  expect("(");
  while (!is_operator(")")) {
    if (peek().kind == TokenKind::kName && peek(1).kind == TokenKind::kOperator &&
        peek(1).text == "=") {
      std::string key = take().text;
      ++at_;
      node.named.emplace_back(std::move(key), expression());
    } else {
      if (!node.named.empty()) fail("a positional argument behind a named one");
      node.children.push_back(expression());
    }
    if (!accept(",")) break;
  }
  expect(")");
}

NodePtr ExpressionParser::filters_and_tests(NodePtr value) {
  int links = 0;
  while (true) {
    if (++links > kMaxDepth) fail("a chain of more than ", kMaxDepth, " filters");
    if (accept("|")) {
      NodePtr node = make(Kind::kFilter, expect_name());
      node->children.push_back(std::move(value));
      if (is_operator("(")) arguments(*node);
      value = std::move(node);
    } else if (accept_name("is")) {
      value = test(std::move(value));
    } else {
      return value;
    }
  }
}

// "is [not] name [argument]"; the argument may stand without parentheses.
NodePtr ExpressionParser::test(NodePtr value) {
  static const std::set<std::string> kNoArgument = {"else", "or", "and", "if", "is", "in", "not"};
  const bool negated = accept_name("not");
  NodePtr node = make(Kind::kTest, expect_name());
  node->children.push_back(std::move(value));
  const TokenKind next = peek().kind;
  const bool name = next == TokenKind::kName && !kNoArgument.contains(peek().text);
  if (is_operator("(")) {
    arguments(*node);
  } else if (name || next == TokenKind::kString || next == TokenKind::kInteger ||
             next == TokenKind::kFloat || is_operator("[") || is_operator("{")) {
    node->children.push_back(postfix(primary()));
  }
  if (!negated) return node;
  NodePtr inverse = make(Kind::kUnary, "not");
  inverse->children.push_back(std::move(node));
  return inverse;
}

}  // namespace tessera::data::jinja
