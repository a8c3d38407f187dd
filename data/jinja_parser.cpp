// The statements of a chat template: the upper half of the parser.
#include <set>

#include "data/jinja_expressions.h"

namespace tessera::data::jinja {

namespace {

class Parser final : private ExpressionParser {
 public:
  Parser(std::vector<Token> tokens, const std::string& name)
      : ExpressionParser(std::move(tokens), name) {}

  NodePtr run() {
    NodePtr block = statements({});
    if (peek().kind != TokenKind::kEnd) fail("unexpected {% ", peek(1).text, " %}");
    return block;
  }

 private:
  void expect_block_end() {
    if (peek().kind != TokenKind::kBlockEnd) fail("expected %} before '", peek().text, "'");
    ++at_;
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
        node->children.push_back(tuple());
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
    if (word == "call") return call_statement();
    if (word == "filter") return filter_statement();
    if (word == "with") return with_statement();
    if (word == "generation") {  // transformers' mark of what the assistant says
      NodePtr node = make(Kind::kScope);
      expect_block_end();
      node->children.push_back(body("endgeneration"));
      return node;
    }
    if (word == "break" || word == "continue") {
      if (loops_ == 0) fail("{% ", word, " %} outside of a loop");
      NodePtr node = make(word == "break" ? Kind::kBreak : Kind::kContinue);
      expect_block_end();
      return node;
    }
    fail("{% ", word, " %} is not supported in a chat template");
  }

  // The statements up to {% end %}, and that tag.
  NodePtr body(const std::string& end) {
    NodePtr block = statements({end});
    end_tag(end);
    return block;
  }

  // {% call(parameters) macro(..) %}: the body is what caller(..) makes inside of the macro.
  NodePtr call_statement() {
    NodePtr node = make(Kind::kCallBlock);
    if (is_operator("(")) parameters(*node);
    NodePtr call = postfix(primary());
    if (call->kind != Kind::kCall) fail("{% call %} needs a call");
    expect_block_end();
    node->children.push_back(std::move(call));
    const int loops = std::exchange(loops_, 0);
    node->children.push_back(body("endcall"));
    loops_ = loops;
    return node;
  }

  // A chain of filters whose value is the text of the statements that follow: `place` is where they
  // go.
  NodePtr filter_chain(Node*& place) {
    NodePtr output = make(Kind::kCapture);
    place = output.get();
    NodePtr value = std::move(output);
    do {
      NodePtr filter = make(Kind::kFilter, expect_name());
      filter->children.push_back(std::move(value));
      if (is_operator("(")) arguments(*filter);
      value = std::move(filter);
    } while (accept("|"));
    return value;
  }

  NodePtr filter_statement() {
    NodePtr node = make(Kind::kOutput);
    Node* capture = nullptr;
    node->children.push_back(filter_chain(capture));
    expect_block_end();
    capture->children.push_back(body("endfilter"));
    return node;
  }

  NodePtr with_statement() {
    NodePtr node = make(Kind::kScope);
    while (peek().kind != TokenKind::kBlockEnd) {
      std::string name = expect_name();
      expect("=");
      node->named.emplace_back(std::move(name), expression());
      if (!accept(",")) break;
    }
    expect_block_end();
    node->children.push_back(body("endwith"));
    return node;
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
    const bool brackets = accept("(");
    do {
      node->names.push_back(expect_name());
    } while (accept(","));
    if (brackets) expect(")");
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
    if (node->names.size() > 1) fail("expected '='");
    Node* capture = nullptr;
    if (accept("|")) {
      node->children.push_back(filter_chain(capture));
    } else {
      node->children.push_back(make(Kind::kCapture));
      capture = node->children[0].get();
    }
    expect_block_end();
    capture->children.push_back(body("endset"));
    return node;
  }

  void parameters(Node& node) {
    expect("(");
    while (!is_operator(")")) {
      node.names.push_back(expect_name());
      if (accept("=")) node.named.emplace_back(node.names.back(), expression());
      if (!accept(",")) break;
    }
    expect(")");
  }

  NodePtr macro_statement() {
    NodePtr node = make(Kind::kMacro, expect_name());
    parameters(*node);
    expect_block_end();
    const int loops = std::exchange(loops_, 0);
    node->children.push_back(body("endmacro"));
    loops_ = loops;
    return node;
  }

  int loops_ = 0;
};

}  // namespace

NodePtr parse_template(std::string_view source, const std::string& name) {
  return Parser(tokenize_template(source, name), name).run();
}

}  // namespace tessera::data::jinja
