// Rewards that compare the answer with what the sample says is right.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "data/json.h"
#include "data/regex.h"
#include "data/tasks/task.h"
#include "data/unicode.h"
#include "rl/rewards/answer.h"
#include "rl/rewards/kinds.h"
#include "rl/rewards/number.h"

namespace tessera::rl {
namespace {

// Below the tokenizers' limit: a step has thousands of matches, and a pattern that needs more is a
// mistake.
constexpr uint32_t kMatchLimit = 1'000'000;

std::string_view answer_of(const RewardInput& input) {
  return split_thinking(input.completion, input.thinking_open).answer;
}

Quantity expected_quantity(const RewardInput& input, const std::string& field) {
  const std::string text = reference_text(input, field);
  std::string_view core = text;
  if (const size_t marker = core.rfind("####"); marker != std::string_view::npos)
    core.remove_prefix(marker + 4);  // GSM8K
  const auto expected = parse_quantity(marked_answer(core).value_or(core));
  if (!expected)
    throw Error(
        detail::concat("the sample's field '", field, "' is no number: ", text.substr(0, 80)));
  return *expected;
}

std::optional<Quantity> given_quantity(const RewardInput& input) {
  const std::string_view answer = answer_of(input);
  if (const auto marked = marked_answer(answer)) return parse_quantity(*marked);
  // The last number of a text that was cut off may be cut itself, and is hardly the answer.
  return input.stopped ? last_quantity(answer) : std::nullopt;
}

bool is_choice(char c) { return c >= 'A' && c <= 'J'; }

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '\'' ||
         static_cast<unsigned char>(c) >= 0x80;
}

/// Whether "A" or "I" before `rest` is a word: before one in lower case, unless that speaks of an
/// option ("A or B").
bool is_article(std::string_view rest) {
  if (rest.size() < 2 || rest[0] != ' ' || !std::islower(static_cast<unsigned char>(rest[1])))
    return false;
  rest.remove_prefix(1);
  const std::string_view next = rest.substr(0, std::min(rest.find_first_of(" .,;"), rest.size()));
  for (const std::string_view word : {"or", "and", "is", "because", "since"})
    if (next == word) return false;
  return true;
}

/// The letters that stand alone in `text`, each once.
std::string lone_letters(std::string_view text) {
  std::string letters;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!is_choice(text[i]) || (i > 0 && is_word(text[i - 1])) ||
        (i + 1 < text.size() && is_word(text[i + 1])))
      continue;
    const bool word = (text[i] == 'A' || text[i] == 'I') && is_article(text.substr(i + 1));
    if (!word && letters.find(text[i]) == std::string::npos) letters += text[i];
  }
  return letters;
}

/// The letter that a short text names, '\0' for none or several.
char letter_in(std::string_view text) {
  std::string bare;
  for (const char c : text)
    if (std::isalnum(static_cast<unsigned char>(c)) || static_cast<unsigned char>(c) >= 0x80)
      bare += c;
  if (bare.size() == 1) {
    const char letter = static_cast<char>(std::toupper(static_cast<unsigned char>(bare[0])));
    return is_choice(letter) ? letter : '\0';
  }
  const std::string letters = lone_letters(text);
  if (letters.size() == 1) return letters[0];
  // "B) vitamin C": the option's label comes first.
  size_t at = 0;
  while (at < text.size() &&
         (text[at] == '(' || text[at] == '*' || text[at] == ' ' || text[at] == '['))
    ++at;
  const bool label = at + 1 < text.size() && is_choice(text[at]) &&
                     std::string_view(").:]").find(text[at + 1]) != std::string_view::npos;
  return label ? text[at] : '\0';
}

char chosen_letter(std::string_view answer) {
  if (const auto marked = marked_answer(answer)) return letter_in(plain_math(*marked));
  const std::string small = lower(answer);
  for (size_t at = small.rfind("answer"); at != std::string::npos;
       at = at == 0 ? std::string::npos : small.rfind("answer", at - 1)) {
    std::string_view rest = answer.substr(at + 6);
    rest = rest.substr(0, rest.find('\n'));
    if (const char letter = letter_in(rest)) return letter;
    if (!lone_letters(rest).empty()) return '\0';  // "the answer is A or B"
  }
  answer = trim(answer);
  const size_t line = answer.rfind('\n');
  return letter_in(line == std::string_view::npos ? answer : answer.substr(line + 1));
}

/// Lower case, single blanks, no surrounding quotes, dollars, brackets and emphasis.
std::string normal_element(std::string_view text) {
  std::string out;
  for (const char c : trim(text)) {
    const bool blank = std::isspace(static_cast<unsigned char>(c));
    if (blank && (out.empty() || out.back() == ' ')) continue;
    out += blank ? ' ' : c;
  }
  constexpr std::string_view kOuter = "\"'`*$. ";
  const size_t begin = out.find_first_not_of(kOuter);
  if (begin == std::string::npos) return "";
  return lower(std::string_view(out).substr(begin, out.find_last_not_of(kOuter) + 1 - begin));
}

/// The elements of a list in JSON or as text, without duplicates.
std::vector<std::string> list_elements(std::string_view text) {
  std::vector<std::string> elements;
  const auto add = [&](std::string_view element) {
    std::string normal = normal_element(element);
    if (!normal.empty() && std::find(elements.begin(), elements.end(), normal) == elements.end())
      elements.push_back(std::move(normal));
  };
  text = trim(text);
  if (text.starts_with('[') && nlohmann::json::accept(text)) {
    for (const auto& element : data::parse_large_json(text, "list"))
      add(element.is_string() ? element.get<std::string>() : element.dump());
    return elements;
  }
  std::string plain = plain_math(text);
  text = trim(plain);
  const bool bracketed = text.size() >= 2 &&
                         std::string_view("{[(").find(text.front()) != std::string_view::npos &&
                         std::string_view("}])").find(text.back()) != std::string_view::npos;
  if (bracketed) text = text.substr(1, text.size() - 2);
  const char separator = text.find(';') != std::string_view::npos ? ';' : ',';
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end =
        std::min(text.find_first_of(separator == ';' ? ";\n" : ",\n", begin), text.size());
    std::string_view element = trim(text.substr(begin, end - begin));
    if (element.starts_with("and ")) element.remove_prefix(4);
    const size_t conjunction = element.rfind(" and ");  // "a, b and c"
    if (conjunction != std::string_view::npos && separator == ',') {
      add(element.substr(0, conjunction));
      element = element.substr(conjunction + 5);
    }
    add(element);
    begin = end + 1;
  }
  return elements;
}

bool same_element(const std::string& a, const std::string& b, double tolerance) {
  if (a == b) return true;
  const auto x = parse_quantity(a), y = parse_quantity(b);
  return x && y && same_quantity(*x, *y, tolerance);
}

bool same_set(const std::vector<std::string>& a, const std::vector<std::string>& b,
              double tolerance) {
  const auto covers = [&](const auto& left, const auto& right) {
    return std::all_of(right.begin(), right.end(), [&](const auto& wanted) {
      return std::any_of(left.begin(), left.end(), [&](const auto& element) {
        return same_element(element, wanted, tolerance);
      });
    });
  };
  return covers(a, b) && covers(b, a);
}

/// What the answer gives as its list: marked, else behind its last "answer", else its last line.
std::string_view given_list(std::string_view answer) {
  if (const auto marked = marked_answer(answer)) return *marked;
  answer = trim(answer);
  const size_t marker = lower(answer).rfind("answer:");
  if (marker != std::string::npos) return answer.substr(marker + 7);
  const size_t line = answer.rfind('\n');
  return line == std::string_view::npos ? answer : answer.substr(line + 1);
}

bool same_json(const nlohmann::json& a, const nlohmann::json& b, double tolerance) {
  if (a.is_number() && b.is_number()) {
    if (a.is_number_integer() && b.is_number_integer()) return a == b;
    const double x = a.get<double>(), y = b.get<double>();
    return std::isfinite(x) && std::abs(x - y) <= tolerance * std::abs(y);
  }
  if (a.type() != b.type()) return false;
  if (!a.is_structured()) return a == b;
  if (a.size() != b.size()) return false;
  if (a.is_array()) {
    for (size_t i = 0; i < a.size(); ++i)
      if (!same_json(a[i], b[i], tolerance)) return false;
    return true;
  }
  for (const auto& [key, value] : b.items())
    if (!a.contains(key) || !same_json(a[key], value, tolerance)) return false;
  return true;
}

std::optional<nlohmann::json> read_json(std::string_view text) {
  try {
    return data::parse_large_json(trim(text), "answer");
  } catch (const ConfigError&) {  // malformed or too deep
    return std::nullopt;
  }
}

/// The answer's JSON: of the last fenced block, of <answer>, or the whole answer.
std::optional<nlohmann::json> given_json(std::string_view answer) {
  if (const auto fenced = last_fenced(answer)) return read_json(*fenced);
  if (const auto tagged = last_tagged(answer)) return read_json(*tagged);
  return read_json(answer);
}

}  // namespace

std::unique_ptr<Reward> make_numeric_reward(const RewardConfig& config) {
  return make_sample_reward([config](const RewardInput& input) {
    const Quantity expected = expected_quantity(input, config.field);
    const auto given = given_quantity(input);
    return given && same_quantity(*given, expected, config.tolerance) ? 1.0 : 0.0;
  });
}

std::unique_ptr<Reward> make_exact_reward(const RewardConfig& config) {
  return make_sample_reward([config](const RewardInput& input) {
    return data::answer_is_correct(answer_of(input), reference_text(input, config.field)) ? 1.0
                                                                                          : 0.0;
  });
}

std::unique_ptr<Reward> make_choice_reward(const RewardConfig& config) {
  return make_sample_reward([config](const RewardInput& input) {
    const std::string expected = reference_text(input, config.field);
    const char letter = letter_in(expected);
    if (letter == '\0')
      throw Error(detail::concat("the sample's field '", config.field,
                                 "' names no letter of A..J: ", expected.substr(0, 80)));
    return chosen_letter(answer_of(input)) == letter ? 1.0 : 0.0;
  });
}

std::unique_ptr<Reward> make_set_reward(const RewardConfig& config) {
  return make_sample_reward([config](const RewardInput& input) {
    const nlohmann::json& value = sample_field(input, config.field);
    const auto expected =
        list_elements(value.is_array() ? value.dump() : reference_text(input, config.field));
    if (expected.empty())
      throw Error(detail::concat("the sample's field '", config.field, "' lists nothing"));
    return same_set(list_elements(given_list(answer_of(input))), expected, config.tolerance) ? 1.0
                                                                                             : 0.0;
  });
}

std::unique_ptr<Reward> make_json_reward(const RewardConfig& config) {
  return make_sample_reward([config](const RewardInput& input) {
    nlohmann::json expected = sample_field(input, config.field);
    if (expected.is_string())  // JSON in a string; a string that is none stands for itself
      expected = read_json(expected.get<std::string>()).value_or(expected);
    const auto given = given_json(answer_of(input));
    return given && same_json(*given, expected, config.tolerance) ? 1.0 : 0.0;
  });
}

std::unique_ptr<Reward> make_regex_reward(const RewardConfig& config) {
  using data::Regex;
  struct Matcher {
    std::optional<Regex> fixed;
    data::RegexScratch scratch{kMatchLimit};
  };
  auto matcher = std::make_shared<Matcher>();
  constexpr auto kDialect = data::RegexDialect::kPcre2;
  if (!config.pattern.empty())
    matcher->fixed.emplace(config.pattern, "rl.rewards: regex", kDialect);
  return make_sample_reward([config, matcher](const RewardInput& input) {
    const std::string text = data::replace_invalid_utf8(answer_of(input));
    const auto matches = [&](const Regex& regex) {
      return regex.find(text, 0, matcher->scratch).first != std::string::npos;
    };
    if (matcher->fixed) return matches(*matcher->fixed) ? 1.0 : 0.0;
    return matches(Regex(reference_text(input, config.field),
                         "the sample's field '" + config.field + "'", kDialect))
               ? 1.0
               : 0.0;
  });
}

}  // namespace tessera::rl
