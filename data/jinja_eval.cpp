#include "data/jinja_eval.h"

#include <algorithm>
#include <ctime>

#include "core/error.h"
#include "data/jinja_operators.h"

namespace tessera::data::jinja {

namespace {

constexpr int64_t kMaxWork =
    5'000'000;  // statements, expressions, and 64 bytes made each count one
constexpr int kMaxDepth = 400;

enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator(const std::map<std::string, Value>& variables, const std::string& name) : name_(name) {
    for (const char* function : {"raise_exception", "namespace", "dict", "range", "strftime_now"}) {
      Value value;
      value.function = function;
      scopes_[0][function] = std::move(value);
    }
    for (const auto& [key, value] : variables) scopes_[0][key] = value;
    fail_ = [this](const std::string& message) {
      throw ConfigError(tessera::detail::concat(name_, ":", line_, ": ", message));
    };
  }

  std::string run(const Node& program) {
    execute(program);
    return std::move(output_);
  }

 private:
  using Scope = std::map<std::string, Value>;
  /// The body of a {% call %}, and the scopes it sees.
  struct Caller {
    const Node* node;
    size_t base, num_scopes;
  };
  struct Deeper {
    explicit Deeper(Evaluator& evaluator) : evaluator_(evaluator) {
      if (++evaluator_.depth_ > kMaxDepth) evaluator_.fail_("the template recurses too deeply");
    }
    ~Deeper() { --evaluator_.depth_; }
    Evaluator& evaluator_;
  };

  void charge(size_t work) {
    work_ += static_cast<int64_t>(work);
    if (work_ > kMaxWork) fail_("the template does not come to an end (more than 5 million steps)");
  }

  void print(const std::string& text) {
    charge(text.size() / 64 + 1);
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
      case Kind::kMacro:
        scopes_.back()[node.text] = macro_value(node);
        return Flow::kNext;
      case Kind::kCallBlock:
        call_block(node);
        return Flow::kNext;
      case Kind::kScope:
        return scope(node);
      case Kind::kBreak:
        return Flow::kBreak;
      case Kind::kContinue:
        return Flow::kContinue;
      default:
        TESSERA_CHECK(false, "not a statement");
        return Flow::kNext;
    }
  }

  static Value macro_value(const Node& node) {
    Value value;
    value.macro = &node;
    return value;
  }

  Flow scope(const Node& node) {
    Scope inner;
    for (const auto& [name, value] : node.named) inner[name] = evaluate(*value);
    scopes_.push_back(std::move(inner));
    const Flow flow = execute(*node.children[0]);
    scopes_.pop_back();
    return flow;
  }

  // The text that statements make.
  Value capture(const Node& statements) {
    std::string outer = std::exchange(output_, "");
    scopes_.emplace_back();
    execute(statements);
    scopes_.pop_back();
    return Value(std::exchange(output_, std::move(outer)));
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
      (*state)["depth"] = Value(Json(1));
      (*state)["depth0"] = Value(Json(0));
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
        return attribute(evaluate(*node.children[0]), node.text, fail_);
      case Kind::kSubscript: {
        const Value value = evaluate(*node.children[0]);
        if (value.is_string()) charge(value.json->get_ref<const std::string&>().size() / 64);
        return subscript(value, evaluate(*node.children[1]), fail_);
      }
      case Kind::kSlice:
        return sliced(node);
      case Kind::kCall:
        return call(node);
      case Kind::kFilter: {
        const Value value = evaluate(*node.children[0]);
        const Arguments given = arguments(node);
        charge_filter(value, given);
        return made(apply_filter(node.text, value, given, fail_));
      }
      case Kind::kTest: {
        const Value value = evaluate(*node.children[0]);
        return Value(apply_test(node.text, value, arguments(node), fail_));
      }
      case Kind::kUnary:
        return unary(node.text, evaluate(*node.children[0]), fail_);
      case Kind::kBinary:
        return binary(node);
      case Kind::kCompare:
        return comparison(node);
      case Kind::kCapture:
        return capture(*node.children[0]);
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
    if (value.is_string()) charge(value.json->get_ref<const std::string&>().size() / 64);
    if (value.json != nullptr && value.json->is_structured()) charge(value.json->size());
    return value;
  }

  void charge_elements(const Value& value) {
    if (value.json != nullptr) charge(value.json->is_structured() ? value.json->size() : 0);
  }

  // Filters may look at each element for each element, their own or an argument's.
  void charge_filter(const Value& value, const Arguments& given) {
    const auto size = [](const Value& some) {
      return some.json != nullptr && some.json->is_structured() ? some.json->size() : size_t{0};
    };
    size_t others = size(value);
    for (const Value& argument : given.positional) others += size(argument);
    charge(size(value) + size(value) * others / 512);
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

  Value sliced(const Node& node) {
    const Value value = evaluate(*node.children[0]);
    charge_elements(value);
    if (value.is_string()) charge(value.json->get_ref<const std::string&>().size() / 8);
    const auto part = [&](size_t which) -> std::optional<int64_t> {
      if (node.children[which] == nullptr) return std::nullopt;
      const Value bound = evaluate(*node.children[which]);
      if (bound.is_none()) return std::nullopt;
      return to_integer(bound, fail_);
    };
    const auto start = part(1), stop = part(2);
    return made(slice(value, start, stop, part(3).value_or(1), fail_));
  }

  Value call(const Node& node) {
    const Node& callee = *node.children[0];
    if (callee.kind == Kind::kAttribute) {
      const Value self = evaluate(*callee.children[0]);
      const Value member = self.space == nullptr ? Value() : attribute(self, callee.text, fail_);
      const Arguments given = arguments(node);
      line_ = node.line;
      if (member.is_callable()) return call_value(member, given);
      charge_elements(self);
      return made(call_method(self, callee.text, given, fail_));
    }
    const Value function = evaluate(callee);
    const Arguments given = arguments(node);
    line_ = node.line;
    if (!function.is_callable())
      fail_(callee.kind == Kind::kName ? "the function '" + callee.text + "' is not supported"
                                       : "this cannot be called");
    return call_value(function, given);
  }

  Value call_value(const Value& function, const Arguments& given) {
    if (function.macro != nullptr) return call_macro(*function.macro, given);
    const std::string& name = function.function;
    if (name == "caller") return call_caller(given);
    if (name == "range") return made(range(given, fail_));
    if (name == "strftime_now") return strftime_now(given);
    if (name == "raise_exception") {
      fail_("the chat template refuses this chat: " +
            (given.positional.empty() ? "" : to_text(given.positional[0], fail_)));
    }
    if (name == "namespace") {
      Value value;
      value.space = std::make_shared<Scope>(given.named);
      for (const Value& base : given.positional)
        for (const Value& key : elements(base, fail_))
          value.space->try_emplace(to_string(key, "namespace()", fail_),
                                   find_attribute(base, to_string(key, "", fail_)));
      return value;
    }
    Json dict = given.positional.empty() ? Json::object() : plain(given.positional[0]);
    if (!dict.is_object()) fail_("dict() needs an object");
    for (const auto& [key, value] : given.named) dict[key] = plain(value);
    return Value(std::move(dict));
  }

  Value strftime_now(const Arguments& given) {
    if (given.positional.empty()) fail_("strftime_now() lacks a format");
    const std::string& format = to_string(given.positional[0], "strftime_now", fail_);
    if (format.size() > 200) fail_("strftime_now(): the format is too long");
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    ::localtime_r(&now, &local);
    char text[4096];
    return Value(std::string(text, std::strftime(text, sizeof text, format.c_str(), &local)));
  }

  Scope bind_parameters(const Node& macro, const Arguments& given) {
    Scope scope;
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
    return scope;
  }

  Value call_macro(const Node& macro, const Arguments& given, Scope more = {}) {
    const Deeper deeper(*this);
    Scope scope = bind_parameters(macro, given);
    scope.merge(more);
    std::string outer = std::exchange(output_, "");
    const size_t outer_base = std::exchange(base_, scopes_.size());
    scopes_.push_back(std::move(scope));
    execute(*macro.children[0]);
    scopes_.pop_back();
    base_ = outer_base;
    return Value(std::exchange(output_, std::move(outer)));
  }

  void call_block(const Node& node) {
    const Node& called = *node.children[0];
    const Value function = evaluate(*called.children[0]);
    if (function.macro == nullptr) fail_("{% call %} needs a macro");
    Value caller;
    caller.function = "caller";
    callers_.push_back({&node, base_, scopes_.size()});
    const Value text = call_macro(*function.macro, arguments(called), {{"caller", caller}});
    callers_.pop_back();
    print(to_text(text, fail_));
  }

  // Runs the body of the {% call %} in the scopes that it was written in.
  Value call_caller(const Arguments& given) {
    if (callers_.empty()) fail_("caller() outside of a called macro");
    const Deeper deeper(*this);
    const Caller caller = callers_.back();
    callers_.pop_back();
    Scope scope = bind_parameters(*caller.node, given);
    std::vector<Scope> hidden(
        std::make_move_iterator(scopes_.begin() + static_cast<std::ptrdiff_t>(caller.num_scopes)),
        std::make_move_iterator(scopes_.end()));
    scopes_.resize(caller.num_scopes);
    const size_t base = std::exchange(base_, caller.base);
    std::string outer = std::exchange(output_, "");
    scopes_.push_back(std::move(scope));
    execute(*caller.node->children[1]);
    scopes_.pop_back();
    scopes_.insert(scopes_.end(), std::make_move_iterator(hidden.begin()),
                   std::make_move_iterator(hidden.end()));
    base_ = base;
    callers_.push_back(caller);
    return Value(std::exchange(output_, std::move(outer)));
  }

  Value binary(const Node& node) {
    const Value left = evaluate(*node.children[0]);
    if (node.text == "or") return truthy(left) ? left : evaluate(*node.children[1]);
    if (node.text == "and") return truthy(left) ? evaluate(*node.children[1]) : left;
    const Value right = evaluate(*node.children[1]);
    line_ = node.line;
    return made(arithmetic(node.text, left, right, fail_));
  }

  Value comparison(const Node& node) {
    Value left = evaluate(*node.children[0]);
    for (size_t i = 0; i < node.names.size(); ++i) {
      Value right = evaluate(*node.children[i + 1]);
      line_ = node.line;
      charge_elements(right);
      if (!compare(node.names[i], left, right, fail_)) return Value(false);
      left = std::move(right);
    }
    return Value(true);
  }

  const std::string& name_;
  Fail fail_;
  std::vector<Scope> scopes_{1};
  std::vector<Caller> callers_;
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
