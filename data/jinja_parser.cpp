#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <set>

#include "core/error.h"
#include "data/jinja_ast.h"
#include "data/jinja_lexer.h"

namespace tessera::data::jinja {

namespace {

constexpr int kMaxDepth = 150;

class Parser {
 public:
  Parser(std::vector<Token> tokens, const std::string& name)
      : tokens_(std::move(tokens)), name_(name) {}

  NodePtr run() {
    NodePtr block = statements({});
    if (peek().kind != TokenKind::kEnd) fail("unexpected {% ", peek(1).text, " %}");
    return block;
  }

 private:
  struct Deeper {
    explicit Deeper(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxDepth) parser_.fail("nested deeper than ", kMaxDepth, " levels");
    }
    ~Deeper() { --parser_.depth_; }
    Parser& parser_;
  };

  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw ConfigError(tessera::detail::concat(name_, ":", peek().line, ": ", parts...));
  }

  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& take() { return tokens_[std::min(at_++, tokens_.size() - 1)]; }
  bool is_operator(std::string_view text) const {
    return peek().kind == TokenKind::kOperator && peek().text == text;
  }
  bool is_name(std::string_view text) const {
    return peek().kind == TokenKind::kName && peek().text == text;
  }
  bool accept(std::string_view text) {
    if (!is_operator(text)) return false;
    ++at_;
    return true;
  }
  bool accept_name(std::string_view text) {
    if (!is_name(text)) return false;
    ++at_;
    return true;
  }
  void expect(std::string_view text) {
    if (!accept(text)) fail("expected '", text, "' before '", peek().text, "'");
  }
  std::string expect_name() {
    if (peek().kind != TokenKind::kName) fail("expected a name before '", peek().text, "'");
    return take().text;
  }
  void expect_block_end() {
    if (peek().kind != TokenKind::kBlockEnd) fail("expected %} before '", peek().text, "'");
    ++at_;
  }
  NodePtr make(Kind kind, std::string text = "") const {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    node->line = peek().line;
    node->text = std::move(text);
    return node;
  }

  // Statements up to, not including, {% one of ends %}.
  NodePtr statements(const std::set<std::string>& ends) {
    const Deeper deeper(*this);
    NodePtr block = make(Kind::kBlock);
    while (peek().kind != TokenKind::kEnd) {
      if (peek().kind == TokenKind::kText) {
        block->children.push_back(make(Kind::kText, peek().text));
        ++at_;
      } else if (peek().kind == TokenKind::kOutputBegin) {
        ++at_;
        NodePtr node = make(Kind::kOutput);
        node->children.push_back(expression());
        if (peek().kind != TokenKind::kOutputEnd) fail("expected }} before '", peek().text, "'");
        ++at_;
        block->children.push_back(std::move(node));
      } else {
        if (ends.contains(peek(1).text)) return block;
        if (NodePtr node = statement()) block->children.push_back(std::move(node));
      }
    }
    if (!ends.empty()) fail("{% ", *ends.rbegin(), " %} is missing");
    return block;
  }

  std::string enter_tag() {
    if (peek().kind != TokenKind::kBlockBegin) fail("expected {%");
    ++at_;
    return expect_name();
  }
  void end_tag(const std::string& word) {
    if (enter_tag() != word) fail("expected {% ", word, " %}");
    expect_block_end();
  }

  NodePtr statement() {
    const std::string word = enter_tag();
    if (word == "if") return if_statement();
    if (word == "for") return for_statement();
    if (word == "set") return set_statement();
    if (word == "macro") return macro_statement();
    if (word == "generation") {  // transformers' mark of what the assistant says
      expect_block_end();
      NodePtr body = statements({"endgeneration"});
      end_tag("endgeneration");
      return body;
    }
    if (word == "break" || word == "continue") {
      if (loops_ == 0) fail("{% ", word, " %} outside of a loop");
      NodePtr node = make(word == "break" ? Kind::kBreak : Kind::kContinue);
      expect_block_end();
      return node;
    }
    fail("{% ", word, " %} is not supported in a chat template");
  }

  NodePtr if_statement() {
    const Deeper deeper(*this);
    NodePtr node = make(Kind::kIf);
    node->children.push_back(expression());
    expect_block_end();
    node->children.push_back(statements({"elif", "else", "endif"}));
    const std::string word = enter_tag();
    if (word == "elif") {
      node->children.push_back(if_statement());
      return node;
    }
    expect_block_end();
    if (word == "else") {
      node->children.push_back(statements({"endif"}));
      end_tag("endif");
    } else {
      node->children.push_back(make(Kind::kBlock));
    }
    return node;
  }

  NodePtr for_statement() {
    NodePtr node = make(Kind::kFor);
    do {
      node->names.push_back(expect_name());
    } while (accept(","));
    if (!accept_name("in")) fail("expected 'in' before '", peek().text, "'");
    node->children.push_back(or_expression());
    node->children.push_back(accept_name("if") ? expression() : nullptr);
    if (is_name("recursive")) fail("recursive loops are not supported");
    expect_block_end();
    ++loops_;
    node->children.push_back(statements({"else", "endfor"}));
    --loops_;
    const bool has_else = enter_tag() == "else";
    expect_block_end();
    if (has_else) {
      node->children.push_back(statements({"endfor"}));
      end_tag("endfor");
    } else {
      node->children.push_back(make(Kind::kBlock));
    }
    return node;
  }

  NodePtr set_statement() {
    NodePtr node = make(Kind::kSet);
    node->names.push_back(expect_name());
    if (accept(".")) {
      node->text = expect_name();  // an attribute of a namespace
    } else {
      while (accept(",")) node->names.push_back(expect_name());
    }
    if (accept("=")) {
      node->children.push_back(tuple());
      expect_block_end();
      return node;
    }
    if (node->names.size() > 1 || !node->text.empty()) fail("expected '='");
    expect_block_end();
    node->kind = Kind::kSetBlock;
    node->children.push_back(statements({"endset"}));
    end_tag("endset");
    return node;
  }

  NodePtr macro_statement() {
    NodePtr node = make(Kind::kMacro, expect_name());
    expect("(");
    while (!is_operator(")")) {
      node->names.push_back(expect_name());
      if (accept("=")) node->named.emplace_back(node->names.back(), expression());
      if (!accept(",")) break;
    }
    expect(")");
    expect_block_end();
    const int loops = std::exchange(loops_, 0);
    node->children.push_back(statements({"endmacro"}));
    loops_ = loops;
    end_tag("endmacro");
    return node;
  }

  NodePtr tuple() {
    NodePtr first = expression();
    if (!is_operator(",")) return first;
    NodePtr list = make(Kind::kList);
    list->children.push_back(std::move(first));
    while (accept(",")) list->children.push_back(expression());
    return list;
  }

  NodePtr expression() {
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

  NodePtr binary(std::string op, NodePtr left, NodePtr right) {
    NodePtr node = make(Kind::kBinary, std::move(op));
    node->children.push_back(std::move(left));
    node->children.push_back(std::move(right));
    return node;
  }

  // A long chain of operators is a deep tree: it counts as nesting.
  template <typename Next>
  NodePtr chain(std::initializer_list<std::string_view> operators, Next next) {
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

  NodePtr or_expression() {
    return chain({"or"}, [this] { return chain({"and"}, [this] { return not_expression(); }); });
  }

  NodePtr not_expression() {
    const Deeper deeper(*this);
    if (!is_name("not")) return comparison();
    NodePtr node = make(Kind::kUnary, "not");
    ++at_;
    node->children.push_back(not_expression());
    return node;
  }

  NodePtr comparison() {
    NodePtr left = sum();
    static const std::set<std::string> kOperators = {"==", "!=", "<", "<=", ">", ">="};
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
        return left;
      }
      left = binary(op, std::move(left), sum());
      if (peek().kind == TokenKind::kOperator && kOperators.contains(peek().text))
        fail("chained comparisons are not supported");
    }
  }

  NodePtr sum() {
    return chain({"+", "-"}, [this] {
      return chain({"~"}, [this] {
        return chain({"*", "/", "//", "%"}, [this] { return unary(true); });
      });
    });
  }

  NodePtr unary(bool filters) {
    const Deeper deeper(*this);
    NodePtr value;
    if (is_operator("-") || is_operator("+")) {
      value = make(Kind::kUnary, peek().text);
      ++at_;
      value->children.push_back(unary(false));
    } else {
      value = postfix(primary());
    }
    if (is_operator("**")) fail("'**' is not supported");
    return filters ? filters_and_tests(std::move(value)) : std::move(value);
  }

  NodePtr primary() {
    const Token token = peek();
    if (token.kind == TokenKind::kString) {
      NodePtr node = make(Kind::kLiteral);
      std::string text;
      while (peek().kind == TokenKind::kString) text += take().text;  // adjacent strings are one
      node->literal = text;
      return node;
    }
    if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kFloat) {
      NodePtr node = make(Kind::kLiteral);
      ++at_;
      if (token.kind == TokenKind::kFloat) {
        node->literal = std::strtod(token.text.c_str(), nullptr);
      } else {
        node->literal = static_cast<int64_t>(std::strtoll(token.text.c_str(), nullptr, 10));
      }
      return node;
    }
    if (token.kind == TokenKind::kName) return name_or_constant();
    if (accept("(")) {
      if (accept(")")) return make(Kind::kList);
      NodePtr inner = tuple();
      expect(")");
      return inner;
    }
    if (accept("[")) {
      NodePtr list = make(Kind::kList);
      while (!is_operator("]")) {
        list->children.push_back(expression());
        if (!accept(",")) break;
      }
      expect("]");
      return list;
    }
    if (accept("{")) {
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
    fail("expected a value before '", token.text, "'");
  }

  NodePtr name_or_constant() {
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

  NodePtr postfix(NodePtr value) {
    int links = 0;
    while (true) {
      if (!is_operator(".") && !is_operator("[") && !is_operator("(")) return value;
      if (++links > kMaxDepth) fail("a chain of more than ", kMaxDepth, " accesses");
      if (accept(".")) {
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

  NodePtr subscript(NodePtr value) {
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
  void arguments(Node& node) {
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

  NodePtr filters_and_tests(NodePtr value) {
    int links = 0;
    while (true) {
      if (++links > kMaxDepth) fail("a chain of more than ", kMaxDepth, " filters");
      if (accept("|")) {
        NodePtr node = make(Kind::kFilter, expect_name());
        node->children.push_back(std::move(value));
        if (is_operator("(")) arguments(*node);
        value = std::move(node);
      } else if (accept_name("is")) {
        const bool negated = accept_name("not");
        NodePtr node = make(Kind::kTest, expect_name());
        node->children.push_back(std::move(value));
        if (is_operator("(")) {
          arguments(*node);
        } else if (peek().kind == TokenKind::kString || peek().kind == TokenKind::kInteger) {
          node->children.push_back(primary());
        }
        value = std::move(node);
        if (negated) {
          NodePtr inverse = make(Kind::kUnary, "not");
          inverse->children.push_back(std::move(value));
          value = std::move(inverse);
        }
      } else {
        return value;
      }
    }
  }

  std::vector<Token> tokens_;
  const std::string& name_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

NodePtr parse_template(std::string_view source, const std::string& name) {
  return Parser(tokenize_template(source, name), name).run();
}

}  // namespace tessera::data::jinja
