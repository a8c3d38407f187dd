// The parsed form of a chat template (the part of Jinja that they use).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/json.h"

namespace tessera::data::jinja {

enum class Kind {
  // Statements
  kText,    // text
  kOutput,  // children[0]
  kIf,      // children: condition, then (kBlock), else (kBlock)
  kFor,     // names; children: iterable, filter or null, body (kBlock), else (kBlock)
  kSet,  // names (one or several); text: the attribute of a namespace, or empty; children[0]: value
  kMacro,      // text: name; names: parameters; defaults in named; children[0]: body
  kCallBlock,  // names: parameters; defaults in named; children: call, body
  kScope,      // names bound in named; children[0]: body
  kBreak,
  kContinue,
  kBlock,  // children: statements
  // Expressions
  kLiteral,    // literal
  kName,       // text
  kList,       // children
  kDict,       // children: key, value, key, value...
  kAttribute,  // children[0]; text
  kSubscript,  // children: object, index
  kSlice,      // children: object, start, stop, step (null = absent)
  kCall,       // children: callee, arguments...; named
  kFilter,     // text: name; children: value, arguments...; named
  kTest,       // text: name; children: value, arguments...
  kUnary,      // text: operator
  kBinary,     // text: operator
  kCompare,    // names: operators; children: operands
  kCapture,    // children[0]: statements (kBlock) whose text is the value
  kTernary,    // children: condition, then, else or null
};

struct Node;
using NodePtr = std::unique_ptr<Node>;

struct Node {
  Kind kind;
  int line = 0;
  std::string text;
  std::vector<std::string> names;
  std::vector<NodePtr> children;
  std::vector<std::pair<std::string, NodePtr>> named;
  Json literal;
};

/// Parses a template as transformers sets Jinja up: trim_blocks, lstrip_blocks, no trailing
/// newline. Throws ConfigError "name:line: ..." on anything malformed or unsupported.
[[nodiscard]] NodePtr parse_template(std::string_view source, const std::string& name);

}  // namespace tessera::data::jinja
