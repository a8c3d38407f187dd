#include "data/pre_tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "data/scanners.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {
enum class Kind { kScanner, kDeepSeek, kRegex, kString, kDigits };
enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
using Scanner = const char* (*)(const char*, const char*);

Scanner find_scanner(std::string_view pattern) {
  if (pattern == kGpt2Pattern) return scan_gpt2;
  if (pattern == kLlama3Pattern) return scan_llama3;
  if (pattern == kQwen2Pattern) return scan_qwen2;
  return nullptr;
}

// The three Splits of DeepSeek-V3 at the front of a sequence, whose patterns may hold line breaks
// as they are.
bool is_deepseek(const nlohmann::json& list) {
  const size_t count = std::size(kDeepSeekPatterns);
  if (list.size() < count) return false;
  for (size_t i = 0; i < count; ++i) {
    nlohmann::json expected = {{"type", "Split"},
                               {"pattern", {{"Regex", std::string(kDeepSeekPatterns[i])}}},
                               {"behavior", "Isolated"},
                               {"invert", false}};
    if (list[i] == expected) continue;
    std::string& pattern = expected["pattern"]["Regex"].get_ref<std::string&>();
    for (const auto& [escape, character] : {std::pair("\\r", "\r"), std::pair("\\n", "\n")})
      for (size_t at = pattern.find(escape); at != std::string::npos; at = pattern.find(escape))
        pattern.replace(at, 2, character);
    if (list[i] != expected) return false;
  }
  return true;
}

bool read_flag(const nlohmann::json& spec, const char* name, bool fallback,
               std::string_view where) {
  const auto found = spec.find(name);
  if (found == spec.end() || found->is_null()) return fallback;
  if (!found->is_boolean())
    throw ConfigError(detail::concat(where, ": pre_tokenizer.", name, " must be true or false"));
  return found->get<bool>();
}

std::string read_string(const nlohmann::json& spec, const char* name, const char* fallback,
                        std::string_view where) {
  const auto found = spec.find(name);
  if (found == spec.end() || found->is_null()) return fallback;
  if (!found->is_string())
    throw ConfigError(detail::concat(where, ": pre_tokenizer.", name, " must be a string"));
  return found->get<std::string>();
}
}  // namespace

struct PreTokenizer::Step {
  Kind kind;
  Scanner scanner = nullptr;
  std::unique_ptr<Regex> regex;
  std::string text;  // kString
  Behavior behavior = Behavior::kIsolated;
  bool invert = false;

  void find_matches(std::string_view text_, Piece piece, PreTokenizerScratch& scratch) const;
  void apply(std::string_view text_, Piece piece, PreTokenizerScratch& scratch,
             std::vector<Piece>& out) const;
};

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

PreTokenizer::PreTokenizer(const nlohmann::json& spec, std::string_view where) {
  if (!spec.is_null()) add(spec, where);
}

void PreTokenizer::add(const nlohmann::json& spec, std::string_view where) {
  const auto type = spec.is_object() ? spec.find("type") : spec.end();
  if (!spec.is_object() || type == spec.end() || !type->is_string()) {
    throw ConfigError(detail::concat(where, ": a pre_tokenizer must be an object with a \"type\""));
  }
  const auto name = type->get<std::string>();
  if (name == "Sequence") {
    const auto list = spec.find("pretokenizers");
    if (list == spec.end() || !list->is_array()) {
      throw ConfigError(
          detail::concat(where, ": pre_tokenizer Sequence needs the list \"pretokenizers\""));
    }
    const bool deepseek = steps_.empty() && is_deepseek(*list);
    if (deepseek) {
      steps_.push_back({});
      steps_.back().kind = Kind::kDeepSeek;
    }
    for (size_t i = deepseek ? std::size(kDeepSeekPatterns) : 0; i < list->size(); ++i)
      add((*list)[i], where);
    return;
  }
  if (byte_level_seen_ || metaspace_seen_) {
    throw ConfigError(detail::concat(where, ": pre_tokenizer ", name, " after ",
                                     byte_level_seen_ ? "ByteLevel" : "Metaspace",
                                     " is not supported"));
  }
  if (name == "ByteLevel") {
    add_byte_level(spec, where);
  } else if (name == "Metaspace") {
    add_metaspace(spec, where);
  } else if (name == "Digits") {
    steps_.push_back({});
    steps_.back().kind = Kind::kDigits;
    steps_.back().behavior = read_flag(spec, "individual_digits", false, where)
                                 ? Behavior::kIsolated
                                 : Behavior::kContiguous;
  } else if (name == "Split") {
    add_split(spec, where);
  } else {
    throw ConfigError(detail::concat(
        where, ": pre_tokenizer \"", name,
        "\" is not supported (supported: ByteLevel, Split, Digits, Metaspace, Sequence)"));
  }
}

void PreTokenizer::add_byte_level(const nlohmann::json& spec, std::string_view where) {
  byte_level_seen_ = true;
  if (read_flag(spec, "add_prefix_space", true, where)) {
    if (!steps_.empty()) {
      throw ConfigError(detail::concat(
          where, ": ByteLevel.add_prefix_space behind another pre_tokenizer is not supported"));
    }
    prefix_ = Prefix::kAlways;
    space_ = " ";
  }
  if (!read_flag(spec, "use_regex", true, where)) return;
  steps_.push_back({});
  steps_.back().kind = Kind::kScanner;
  steps_.back().scanner = scan_gpt2;
}

void PreTokenizer::add_metaspace(const nlohmann::json& spec, std::string_view where) {
  if (!steps_.empty())
    throw ConfigError(
        detail::concat(where, ": Metaspace behind another pre_tokenizer is not supported"));
  metaspace_seen_ = true;
  space_ = read_string(spec, "replacement", "\u2581", where);
  const char* old = read_flag(spec, "add_prefix_space", true, where) ? "always" : "never";
  const std::string scheme = read_string(spec, "prepend_scheme", old, where);
  if (space_.empty() || (scheme != "always" && scheme != "first" && scheme != "never")) {
    throw ConfigError(detail::concat(where, ": pre_tokenizer Metaspace: prepend_scheme \"", scheme,
                                     "\" is not supported, or the replacement is empty"));
  }
  prefix_ = scheme == "always"  ? Prefix::kAlways
            : scheme == "first" ? Prefix::kFirst
                                : Prefix::kNever;
  if (!read_flag(spec, "split", true, where)) return;
  steps_.push_back({});
  steps_.back().kind = Kind::kString;
  steps_.back().text = space_;
  steps_.back().behavior = Behavior::kMergedWithNext;
}

std::string_view PreTokenizer::prepare(std::string_view text, bool begins_the_text,
                                       std::string& storage, Alignment& alignment) const {
  if (space_.empty()) return text;
  const bool wanted = prefix_ == Prefix::kAlways || (prefix_ == Prefix::kFirst && begins_the_text);
  const bool prefix = wanted && !text.starts_with(' ') && !text.starts_with(space_);
  if (!prefix && !metaspace_seen_) return text;
  storage = replace_text(text, " ", space_, &alignment);
  if (prefix) {
    storage.insert(0, space_);
    alignment.insert(alignment.begin(), space_.size(), 0);
  }
  return storage;
}

void PreTokenizer::add_split(const nlohmann::json& spec, std::string_view where) {
  Step step;
  const auto pattern = spec.find("pattern");
  const bool is_object = pattern != spec.end() && pattern->is_object() && pattern->size() == 1;
  if (!is_object || !pattern->begin()->is_string()) {
    throw ConfigError(detail::concat(
        where, ": pre_tokenizer Split needs \"pattern\": {\"Regex\": ..} or {\"String\": ..}"));
  }
  const auto text = pattern->begin()->get<std::string>();
  const auto behavior = spec.value("behavior", nlohmann::json());
  static const std::pair<const char*, Behavior> kNames[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  const auto* named = std::find_if(std::begin(kNames), std::end(kNames),
                                   [&](const auto& entry) { return behavior == entry.first; });
  if (named == std::end(kNames)) {
    throw ConfigError(
        detail::concat(where, ": pre_tokenizer Split: behavior ",
                       behavior.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace),
                       " is not supported"));
  }
  step.behavior = named->second;
  step.invert = read_flag(spec, "invert", false, where);
  if (pattern->begin().key() == "String") {
    step.kind = Kind::kString;
    step.text = text;
    if (text.empty())
      throw ConfigError(detail::concat(where, ": pre_tokenizer Split has an empty pattern"));
  } else if (pattern->begin().key() == "Regex") {
    step.kind = Kind::kRegex;
    // The scanners' words cover the text, so it makes no difference whether matches are isolated,
    // or all else removed.
    const bool plain = (step.behavior == Behavior::kIsolated && !step.invert) ||
                       (step.behavior == Behavior::kRemoved && step.invert);
    step.scanner = plain ? find_scanner(text) : nullptr;
    if (step.scanner != nullptr) {
      step.kind = Kind::kScanner;
    } else {
      step.regex = std::make_unique<Regex>(text, where);
    }
  } else {
    throw ConfigError(detail::concat(where, ": pre_tokenizer Split: pattern kind \"",
                                     pattern->begin().key(), "\" is not supported"));
  }
  steps_.push_back(std::move(step));
}

// Fills scratch.matches and is_match with consecutive ranges that cover the piece.
void PreTokenizer::Step::find_matches(std::string_view text_, Piece piece,
                                      PreTokenizerScratch& scratch) const {
  auto& ranges = scratch.matches;
  auto& flags = scratch.is_match;
  ranges.clear();
  flags.clear();
  const std::string_view body = text_.substr(piece.begin, piece.end - piece.begin);
  const auto push = [&](size_t begin, size_t end, bool matched) {
    ranges.push_back({piece.begin + begin, piece.begin + end});
    flags.push_back(matched != invert);
  };
  size_t covered = 0;
  if (kind == Kind::kDigits) {
    const uint8_t* classes = char_classes();
    size_t i = 0;
    while (i < body.size()) {
      const CodePoint c = decode_utf8(body.data() + i);
      if (classes[c.value] == kNumber) {
        if (covered < i) push(covered, i, false);
        push(i, i + c.length, true);
        covered = i + c.length;
      }
      i += c.length;
    }
  } else {
    size_t from = 0;
    while (from <= body.size()) {
      size_t begin = 0, end = 0;
      if (kind == Kind::kString) {
        begin = body.find(text, from);
        end = begin == std::string_view::npos ? begin : begin + text.size();
      } else {
        std::tie(begin, end) = regex->find(body, from, scratch.regex);
      }
      if (begin == std::string_view::npos) break;
      if (covered < begin) push(covered, begin, false);
      push(begin, end, true);
      covered = end;
      // After an empty match the search goes on one character further.
      from = end > begin         ? end
             : end < body.size() ? end + decode_utf8(body.data() + end).length
                                 : end + 1;
    }
  }
  if (covered < body.size()) push(covered, body.size(), false);
}

// The five ways of tokenizers' SplitDelimiterBehavior; empty pieces are dropped.
void PreTokenizer::Step::apply(std::string_view text_, Piece piece, PreTokenizerScratch& scratch,
                               std::vector<Piece>& out) const {
  find_matches(text_, piece, scratch);
  const auto& ranges = scratch.matches;
  const auto& flags = scratch.is_match;
  const size_t first = out.size();
  const size_t count = ranges.size();
  bool previous = false;
  switch (behavior) {
    case Behavior::kIsolated:
      out.insert(out.end(), ranges.begin(), ranges.end());
      break;
    case Behavior::kRemoved:
      for (size_t i = 0; i < count; ++i) {
        if (!flags[i]) out.push_back(ranges[i]);
      }
      break;
    case Behavior::kContiguous:
      for (size_t i = 0; i < count; ++i) {
        if (i > 0 && flags[i] == previous) {
          out.back().end = ranges[i].end;
        } else {
          out.push_back(ranges[i]);
        }
        previous = flags[i];
      }
      break;
    case Behavior::kMergedWithPrevious:
      for (size_t i = 0; i < count; ++i) {
        if (flags[i] && !previous && out.size() > first) {
          out.back().end = ranges[i].end;
        } else {
          out.push_back(ranges[i]);
        }
        previous = flags[i];
      }
      break;
    case Behavior::kMergedWithNext:
      for (size_t i = count; i-- > 0;) {
        if (flags[i] && !previous && out.size() > first) {
          out.back().begin = ranges[i].begin;
        } else {
          out.push_back(ranges[i]);
        }
        previous = flags[i];
      }
      std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
      break;
  }
  out.erase(std::remove_if(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(),
                           [](const Piece& p) { return p.begin == p.end; }),
            out.end());
}

void PreTokenizer::split(std::string_view text, PreTokenizerScratch& scratch) const {
  auto& pieces = scratch.pieces;
  pieces.clear();
  if (text.empty()) return;
  pieces.push_back({0, text.size()});
  for (const Step& step : steps_) {
    auto& next = scratch.next;
    next.clear();
    const auto scan = [&](Scanner scanner, const char* p, const char* end) {
      while (p < end) {
        const char* q = scanner(p, end);
        next.push_back(
            {static_cast<size_t>(p - text.data()), static_cast<size_t>(q - text.data())});
        p = q;
      }
    };
    for (const Piece& piece : pieces) {
      const char* p = text.data() + piece.begin;
      const char* end = text.data() + piece.end;
      if (step.kind == Kind::kScanner) {
        scan(step.scanner, p, end);
      } else if (step.kind == Kind::kDeepSeek) {
        while (p < end) {
          const char* q = deepseek_piece(p, end);
          scan(scan_deepseek, p, q);
          p = q;
        }
      } else {
        step.apply(text, piece, scratch, next);
      }
    }
    pieces.swap(next);
  }
}

}  // namespace tessera::data
