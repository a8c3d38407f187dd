#include <algorithm>
#include <cctype>

#include "rl/rewards/answer.h"
#include "rl/rewards/number.h"
#include "rl/rewards/number_reader.h"

namespace tessera::rl {
namespace {

struct Spelling {
  std::string_view from, to;
};

/// Behind a backslash, longest first where one begins another.
constexpr Spelling kCommands[] = {
    {"dfrac", "\\frac"},   {"tfrac", "\\frac"}, {"cfrac", "\\frac"},  {"frac", "\\frac"},
    {"sqrt", "\\sqrt"},    {"pi", "π"},         {"times", "×"},       {"cdot", "×"},
    {"circ", "°"},         {"degree", "°"},     {"approx", "≈"},      {"simeq", "≈"},
    {"left", ""},          {"right", ""},       {"displaystyle", ""}, {"quad", " "},
    {"qquad", " "},        {"text", " "},       {"textbf", " "},      {"textrm", " "},
    {"textit", " "},       {"mathrm", " "},     {"mathbf", " "},      {"mbox", " "},
    {"operatorname", " "}, {"boxed", " "},      {"fbox", " "},        {"mathit", " "},
    {"euro", "€"},         {"pounds", "£"},
};

constexpr Spelling kCharacters[] = {
    {"−", "-"},         {"–", "-"},    {"﹣", "-"},   {"⁄", "/"},         {"∕", "/"},
    {"·", "×"},         {"⋅", "×"},    {"’", "'"},    {"\u00a0", "\x01"}, {"\u2009", "\x01"},
    {"\u202f", "\x01"}, {"**", ""},    {"`", ""},     {"√", "\\sqrt"},    {"{,}", ","},
    {"½", " 1/2"},      {"¼", " 1/4"}, {"¾", " 3/4"}, {"⅓", " 1/3"},      {"⅔", " 2/3"},
};

constexpr std::string_view kSuperscripts[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};

/// Takes a run of superscript digits at `i`.
std::string take_superscripts(std::string_view text, size_t& i) {
  std::string digits;
  for (bool found = true; found && i < text.size();) {
    found = false;
    if (text.substr(i).starts_with("⁻")) {
      digits += '-';
      i += std::string_view("⁻").size();
      found = true;
    }
    for (size_t digit = 0; digit < 10 && !found; ++digit) {
      if (!text.substr(i).starts_with(kSuperscripts[digit])) continue;
      digits += static_cast<char>('0' + digit);
      i += kSuperscripts[digit].size();
      found = true;
    }
  }
  return digits;
}

/// Takes the command behind the backslash at `i`.
void take_command(std::string_view text, size_t& i, std::string& out) {
  const char next = i + 1 < text.size() ? text[i + 1] : ' ';
  if (!std::isalpha(static_cast<unsigned char>(next))) {
    i += 2;
    if (next == ',' || next == ';' || next == ':' || next == ' ') {
      out += kThin;
    } else if (next == '%' || next == '$' || next == '{' || next == '}') {
      out += next;
    }
    return;  // \! \( \) \[ \] and the like leave nothing
  }
  size_t end = i + 1;
  while (end < text.size() && std::isalpha(static_cast<unsigned char>(text[end]))) ++end;
  const std::string_view name = text.substr(i + 1, end - i - 1);
  i = end;
  for (const Spelling& command : kCommands) {
    if (command.from != name) continue;
    const bool wraps = command.to == " " && i < text.size() && text[i] == '{';
    const size_t close = wraps ? closing_brace(text, i) : std::string_view::npos;
    if (close == std::string_view::npos) {
      out += command.to;
    } else {
      out += " " + plain_math(text.substr(i + 1, close - i - 1)) + " ";
      i = close + 1;
    }
    return;
  }
  out += "\\" + std::string(name);
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

/// Unescaped dollars in pairs delimit mathematics; a single one is a currency.
std::string without_math_dollars(std::string_view text) {
  size_t dollars = 0;
  for (size_t i = 0; i < text.size(); ++i)
    dollars += text[i] == '$' && (i == 0 || text[i - 1] != '\\');
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool delimiter = text[i] == '$' && (i == 0 || text[i - 1] != '\\') && dollars % 2 == 0;
    out += delimiter ? ' ' : text[i];
  }
  return out;
}

}  // namespace

std::string plain_math(std::string_view raw) {
  const std::string text = without_math_dollars(raw);
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '\\') {
      take_command(text, i, out);
      continue;
    }
    if (text[i] == '~') {
      out += kThin;
      ++i;
      continue;
    }
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < 0x80 && byte != '*' && byte != '`' &&
        byte != '{') {  // nothing below begins otherwise
      out += text[i++];
      continue;
    }
    if (const std::string digits = take_superscripts(text, i); !digits.empty()) {
      out += "^{" + digits + "}";
      continue;
    }
    const std::string_view rest = std::string_view(text).substr(i);
    const auto* spelling =
        std::find_if(std::begin(kCharacters), std::end(kCharacters),
                     [&](const Spelling& s) { return rest.starts_with(s.from); });
    if (spelling != std::end(kCharacters)) {
      out += spelling->to;
      i += spelling->from.size();
    } else {
      out += text[i++];
    }
  }
  replace_all(out, "^{°}", "°");
  replace_all(out, "^°", "°");
  return out;
}

}  // namespace tessera::rl
