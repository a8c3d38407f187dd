#include "data/jinja_eval.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tessera::data::jinja {

namespace {

constexpr int64_t kMaxWork = 200'000'000;  // statements, expressions and bytes made
constexpr int kMaxDepth = 400;
constexpr int64_t kMaxRange = 100'000;

enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator(const std::map<std::string, Value>& variables, const std::string& name) : name_(name) {
    scopes_.push_back(variables);
    fail_ = [this](const std::string& message) {
      throw ConfigError(tessera::detail::concat(name_, ":", line_, ": ", message));
    };
  }

  std::string run(const Node& program) {
    execute(program);
    return std::move(output_);
  }

 private:
  struct Deeper {
    explicit Deeper(Evaluator& evaluator) : evaluator_(evaluator) {
      if (++evaluator_.depth_ > kMaxDepth) evaluator_.fail_("the template recurses too deeply");
    }
    ~Deeper() { --evaluator_.depth_; }
    Evaluator& evaluator_;
  };

  void charge(size_t work) {
    work_ += static_cast<int64_t>(work);
    if (work_ > kMaxWork)
      fail_("the template does not come to an end (more than 200 million steps)");
  }

  void print(const std::string& text) {
    charge(text.size());
    output_ += text;
  }

  Value lookup(const std::string& name) const {
    for (size_t i = scopes_.size(); i-- > base_;) {
      if (const auto found = scopes_[i].find(name); found != scopes_[i].end()) return found->second;
    }
    if (base_ > 0) {  // inside a macro: the template's own variables
      if (const auto found = scopes_[0].find(name); found != scopes_[0].end()) return found->second;
    }
    return Value::undefined(name);
  }

  Flow execute(const Node& node) {
    const Deeper deeper(*this);
    charge(1);
    line_ = node.line;
    switch (node.kind) {
      case Kind::kBlock:
        for (const NodePtr& child : node.children) {
          if (const Flow flow = execute(*child); flow != Flow::kNext) return flow;
        }
        return Flow::kNext;
      case Kind::kText:
        print(node.text);
        return Flow::kNext;
      case Kind::kOutput:
        print(to_text(evaluate(*node.children[0]), fail_));
        return Flow::kNext;
      case Kind::kIf:
        return execute(*node.children[truthy(evaluate(*node.children[0])) ? 1 : 2]);
      case Kind::kFor:
        return loop(node);
      case Kind::kSet:
        assign(node, evaluate(*node.children[0]));
        return Flow::kNext;
      case Kind::kSetBlock: {
        std::string outer = std::exchange(output_, "");
        execute(*node.children[0]);
        scopes_.back()[node.names[0]] = Value(std::exchange(output_, std::move(outer)));
        return Flow::kNext;
      }
      case Kind::kMacro:
        macros_[node.text] = &node;
        return Flow::kNext;
      case Kind::kBreak:
        return Flow::kBreak;
      case Kind::kContinue:
        return Flow::kContinue;
      default:
        TESSERA_CHECK(false, "not a statement");
        return Flow::kNext;
    }
  }

  void assign(const Node& node, Value value) {
    if (!node.text.empty()) {
      const Value target = lookup(node.names[0]);
      if (target.space == nullptr) fail_("'" + node.names[0] + "' is not a namespace");
      if (value.space != nullptr) fail_("a namespace inside a namespace is not supported");
      (*target.space)[node.text] = std::move(value);
    } else {
      bind(node.names, value);
    }
  }

  void bind(const std::vector<std::string>& names, const Value& value) {
    if (names.size() == 1) {
      scopes_.back()[names[0]] = value;
      return;
    }
    const auto parts = elements(value, fail_);
    if (parts.size() != names.size()) fail_("a list of another length cannot be unpacked");
    for (size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = parts[i];
  }

  Flow loop(const Node& node) {
    auto items = elements(evaluate(*node.children[0]), fail_);
    charge(items.size());
    if (node.children[1] != nullptr) {
      std::vector<Value> kept;
      for (const Value& item : items) {
        scopes_.emplace_back();
        bind(node.names, item);
        if (truthy(evaluate(*node.children[1]))) kept.push_back(item);
        scopes_.pop_back();
      }
      items = std::move(kept);
    }
    if (items.empty()) return execute(*node.children[3]);
    const size_t depth = scopes_.size();
    for (size_t i = 0; i < items.size(); ++i) {
      scopes_.emplace_back();
      bind(node.names, items[i]);
      auto state = std::make_shared<std::map<std::string, Value>>();
      (*state)["index0"] = Value(Json(i));
      (*state)["index"] = Value(Json(i + 1));
      (*state)["revindex"] = Value(Json(items.size() - i));
      (*state)["revindex0"] = Value(Json(items.size() - i - 1));
      (*state)["first"] = Value(Json(i == 0));
      (*state)["last"] = Value(Json(i + 1 == items.size()));
      (*state)["length"] = Value(Json(items.size()));
      if (i > 0) (*state)["previtem"] = items[i - 1];
      if (i + 1 < items.size()) (*state)["nextitem"] = items[i + 1];
      scopes_.back()["loop"].space = std::move(state);
      const Flow flow = execute(*node.children[2]);
      scopes_.resize(depth);
      if (flow == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  Value evaluate(const Node& node) {
    const Deeper deeper(*this);
    charge(1);
    line_ = node.line;
    switch (node.kind) {
      case Kind::kLiteral:
        return Value(node.literal);
      case Kind::kName:
        return lookup(node.text);
      case Kind::kList: {
        Json list = Json::array();
        for (const NodePtr& child : node.children) list.push_back(plain(evaluate(*child)));
        return Value(std::move(list));
      }
      case Kind::kDict: {
        Json dict = Json::object();
        for (size_t i = 0; i + 1 < node.children.size(); i += 2) {
          dict[to_string(evaluate(*node.children[i]), "a key", fail_)] =
              plain(evaluate(*node.children[i + 1]));
        }
        return Value(std::move(dict));
      }
      case Kind::kAttribute:
        return attribute(evaluate(*node.children[0]), node.text);
      case Kind::kSubscript:
        return subscript(evaluate(*node.children[0]), evaluate(*node.children[1]));
      case Kind::kSlice:
        return slice(node);
      case Kind::kCall:
        return call(node);
      case Kind::kFilter: {
        const Value value = evaluate(*node.children[0]);
        return made(apply_filter(node.text, value, arguments(node), fail_));
      }
      case Kind::kTest: {
        const Value value = evaluate(*node.children[0]);
        return Value(apply_test(node.text, value, arguments(node), fail_));
      }
      case Kind::kUnary:
        return unary(node.text, evaluate(*node.children[0]));
      case Kind::kBinary:
        return binary(node);
      case Kind::kTernary:
        if (truthy(evaluate(*node.children[0]))) return evaluate(*node.children[1]);
        return node.children[2] == nullptr ? Value::undefined("") : evaluate(*node.children[2]);
      default:
        TESSERA_CHECK(false, "not an expression");
        return {};
    }
  }

  // Counts a new value's size.
  Value made(Value value) {
    if (value.is_string()) charge(value.json->get_ref<const std::string&>().size());
    if (value.json != nullptr && value.json->is_structured()) charge(value.json->size());
    return value;
  }

  Json plain(const Value& value) {
    if (value.json == nullptr) fail_(kind_name(value) + " where a value is needed");
    charge(value.json->size());
    return *value.json;
  }

  Arguments arguments(const Node& node) {
    Arguments out;
    for (size_t i = 1; i < node.children.size(); ++i)
      out.positional.push_back(evaluate(*node.children[i]));
    for (const auto& [key, value] : node.named) out.named[key] = evaluate(*value);
    return out;
  }

  Value attribute(const Value& value, const std::string& name) {
    if (value.space != nullptr) {
      const auto found = value.space->find(name);
      return found == value.space->end() ? Value::undefined(name) : found->second;
    }
    if (value.json == nullptr) fail_("'" + name + "' of " + kind_name(value));
    if (value.json->is_object()) {
      if (const auto found = value.json->find(name); found != value.json->end())
        return value.part(*found);
    }
    return Value::undefined(name);
  }

  Value subscript(const Value& value, const Value& index) {
    if (index.is_string()) return attribute(value, index.json->get_ref<const std::string&>());
    if (value.json == nullptr) fail_("an element of " + kind_name(value));
    int64_t i = to_integer(index, fail_);
    if (value.is_string()) {
      const auto all = characters(value.json->get_ref<const std::string&>());
      charge(all.size());
      if (i < 0) i += static_cast<int64_t>(all.size());
      return i < 0 || i >= static_cast<int64_t>(all.size())
                 ? Value::undefined("element")
                 : Value(std::string(all[static_cast<size_t>(i)]));
    }
    if (!value.json->is_array()) return Value::undefined("element");
    if (i < 0) i += static_cast<int64_t>(value.json->size());
    if (i < 0 || i >= static_cast<int64_t>(value.json->size()))
      return Value::undefined("element " + std::to_string(i));
    return value.part((*value.json)[static_cast<size_t>(i)]);
  }

  // Python's slice of a list or a string.
  Value slice(const Node& node) {
    const Value value = evaluate(*node.children[0]);
    if (!value.is_string() && (value.json == nullptr || !value.json->is_array()))
      fail_("a slice of " + kind_name(value));
    const auto all = elements(value, fail_);
    charge(all.size());
    const auto size = static_cast<int64_t>(all.size());
    const auto part = [&](size_t which) -> std::optional<int64_t> {
      if (node.children[which] == nullptr) return std::nullopt;
      const Value bound = evaluate(*node.children[which]);
      if (bound.is_none()) return std::nullopt;
      return to_integer(bound, fail_);
    };
    const auto start = part(1), stop = part(2);
    const int64_t step = part(3).value_or(1);
    if (step == 0 || step < -kMaxRange || step > kMaxRange) fail_("a slice's step");
    const auto clamp = [&](int64_t i) {
      if (i < 0) i = std::max<int64_t>(i, -size - 1) + size;
      return step > 0 ? std::clamp<int64_t>(i, 0, size) : std::clamp<int64_t>(i, -1, size - 1);
    };
    const int64_t from = start ? clamp(*start) : step > 0 ? 0 : size - 1;
    const int64_t to = stop ? clamp(*stop) : step > 0 ? size : -1;
    Json list = Json::array();
    std::string text;
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step) {
      const Value& item = all[static_cast<size_t>(i)];
      value.is_string() ? void(text += item.json->get_ref<const std::string&>())
                        : list.push_back(*item.json);
    }
    return value.is_string() ? Value(text) : Value(std::move(list));
  }

  Value call(const Node& node) {
    const Node& callee = *node.children[0];
    if (callee.kind == Kind::kAttribute) {
      const Value self = evaluate(*callee.children[0]);
      line_ = node.line;
      return made(call_method(self, callee.text, arguments(node), fail_));
    }
    if (callee.kind != Kind::kName) fail_("this cannot be called");
    const std::string& name = callee.text;
    const Arguments given = arguments(node);
    line_ = node.line;
    if (name == "raise_exception") {
      fail_("the chat template refuses this chat: " +
            (given.positional.empty() ? "" : to_text(given.positional[0], fail_)));
    }
    if (name == "namespace") {
      Value value;
      value.space = std::make_shared<std::map<std::string, Value>>(given.named);
      return value;
    }
    if (name == "dict") {
      Json dict = Json::object();
      for (const auto& [key, value] : given.named) dict[key] = plain(value);
      return Value(std::move(dict));
    }
    if (name == "range") return range(given);
    if (const auto macro = macros_.find(name); macro != macros_.end())
      return call_macro(*macro->second, given);
    fail_("the function '" + name + "' is not supported");
    return {};
  }

  Value range(const Arguments& given) {
    if (given.positional.empty() || given.positional.size() > 3)
      fail_("range() takes one to three arguments");
    std::vector<int64_t> numbers;
    for (const Value& value : given.positional) {
      numbers.push_back(to_integer(value, fail_));
      if (std::abs(numbers.back()) > 1'000'000'000) fail_("range() of a number this large");
    }
    const int64_t start = numbers.size() > 1 ? numbers[0] : 0;
    const int64_t stop = numbers.size() > 1 ? numbers[1] : numbers[0];
    const int64_t step = numbers.size() > 2 ? numbers[2] : 1;
    if (step == 0 || std::abs((stop - start) / step) > kMaxRange)
      fail_("range() of more than 100000 numbers");
    Json list = Json::array();
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) list.push_back(i);
    return made(Value(std::move(list)));
  }

  Value call_macro(const Node& macro, const Arguments& given) {
    const Deeper deeper(*this);
    std::map<std::string, Value> scope;
    if (given.positional.size() > macro.names.size())
      fail_("too many arguments of macro '" + macro.text + "'");
    for (const auto& [key, node] : macro.named) scope[key] = evaluate(*node);
    for (size_t i = 0; i < given.positional.size(); ++i)
      scope[macro.names[i]] = given.positional[i];
    for (const auto& [key, value] : given.named) {
      if (std::find(macro.names.begin(), macro.names.end(), key) == macro.names.end())
        fail_("macro '" + macro.text + "' has no parameter '" + key + "'");
      scope[key] = value;
    }
    for (const std::string& name : macro.names) scope.try_emplace(name, Value::undefined(name));
    std::string outer = std::exchange(output_, "");
    const size_t outer_base = std::exchange(base_, scopes_.size());
    scopes_.push_back(std::move(scope));
    execute(*macro.children[0]);
    scopes_.pop_back();
    base_ = outer_base;
    return Value(std::exchange(output_, std::move(outer)));
  }

  Value unary(const std::string& op, const Value& value) {
    if (op == "not") return Value(!truthy(value));
    if (value.json == nullptr || !value.json->is_number())
      fail_("'" + op + "' of " + kind_name(value));
    if (op == "+") return value;
    if (value.json->is_number_float()) return Value(-value.json->get<double>());
    return Value(static_cast<int64_t>(0 - static_cast<uint64_t>(value.json->get<int64_t>())));
  }

  Value binary(const Node& node) {
    const std::string& op = node.text;
    const Value left = evaluate(*node.children[0]);
    if (op == "or") return truthy(left) ? left : evaluate(*node.children[1]);
    if (op == "and") return truthy(left) ? evaluate(*node.children[1]) : left;
    const Value right = evaluate(*node.children[1]);
    line_ = node.line;
    if (op == "==") return Value(equal(left, right));
    if (op == "!=") return Value(!equal(left, right));
    if (op == "in") return Value(contains(right, left));
    if (op == "not in") return Value(!contains(right, left));
    if (op == "~") return made(Value(to_text(left, fail_) + to_text(right, fail_)));
    if (op[0] == '<' || op[0] == '>') return Value(ordered(op, left, right));
    if (op == "+" && left.is_string() && right.is_string()) {
      return made(Value(left.json->get<std::string>() + right.json->get_ref<const std::string&>()));
    }
    if (op == "+" && left.json != nullptr && left.json->is_array() && right.json != nullptr &&
        right.json->is_array()) {
      Json list = *left.json;
      list.insert(list.end(), right.json->begin(), right.json->end());
      return made(Value(std::move(list)));
    }
    return arithmetic(op, left, right);
  }

  bool contains(const Value& container, const Value& item) {
    if (container.is_string()) {
      return container.json->get_ref<const std::string&>().find(
                 to_string(item, "'in' a string", fail_)) != std::string::npos;
    }
    if (container.json != nullptr && container.json->is_object()) {
      return item.is_string() && container.json->contains(item.json->get_ref<const std::string&>());
    }
    const auto all = elements(container, fail_);
    charge(all.size());
    return std::any_of(all.begin(), all.end(),
                       [&](const Value& element) { return equal(element, item); });
  }

  bool ordered(const std::string& op, const Value& left, const Value& right) {
    const bool strings = left.is_string() && right.is_string();
    const bool numbers = left.json != nullptr && right.json != nullptr && left.json->is_number() &&
                         right.json->is_number();
    if (!strings && !numbers)
      fail_("'" + op + "' between " + kind_name(left) + " and " + kind_name(right));
    const Json& a = *left.json;
    const Json& b = *right.json;
    if (op == "<") return a < b;
    if (op == "<=") return a <= b;
    return op == ">" ? a > b : a >= b;
  }

  Value arithmetic(const std::string& op, const Value& left, const Value& right) {
    const bool numbers = left.json != nullptr && right.json != nullptr && left.json->is_number() &&
                         right.json->is_number();
    if (!numbers) fail_("'" + op + "' between " + kind_name(left) + " and " + kind_name(right));
    const double x = left.json->get<double>(), y = right.json->get<double>();
    if ((op == "/" || op == "//" || op == "%") && y == 0) fail_("division by zero");
    if (op == "/") return Value(x / y);
    if (left.json->is_number_float() || right.json->is_number_float()) {
      if (op == "+") return Value(x + y);
      if (op == "-") return Value(x - y);
      if (op == "*") return Value(x * y);
      if (op == "//") return Value(std::floor(x / y));
      return Value(x - std::floor(x / y) * y);
    }
    const int64_t a = left.json->get<int64_t>(), b = right.json->get<int64_t>();
    int64_t result = 0;
    bool overflow = false;
    if (op == "+") {
      overflow = __builtin_add_overflow(a, b, &result);
    } else if (op == "-") {
      overflow = __builtin_sub_overflow(a, b, &result);
    } else if (op == "*") {
      overflow = __builtin_mul_overflow(a, b, &result);
    } else if (b == -1) {
      overflow = op == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
    } else {
      int64_t quotient = a / b, rest = a % b;
      if (rest != 0 && (rest < 0) != (b < 0)) {
        --quotient;
        rest += b;
      }
      result = op == "//" ? quotient : rest;
    }
    if (overflow) fail_("a number is too large");
    return Value(result);
  }

  const std::string& name_;
  Fail fail_;
  std::vector<std::map<std::string, Value>> scopes_;
  std::map<std::string, const Node*> macros_;
  std::string output_;
  size_t base_ = 0;  // scopes below are hidden from a running macro
  int64_t work_ = 0;
  int depth_ = 0;
  int line_ = 0;
};

}  // namespace

std::string render(const Node& program, const std::map<std::string, Value>& variables,
                   const std::string& name) {
  return Evaluator(variables, name).run(program);
}

}  // namespace tessera::data::jinja
