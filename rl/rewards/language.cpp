#include "rl/rewards/language.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>

#include "core/error.h"
#include "data/unicode.h"
#include "rl/rewards/answer.h"

namespace tessera::rl {
namespace {

enum Script {
  kLatin,
  kHan,
  kKana,
  kHangul,
  kCyrillic,
  kArabic,
  kGreek,
  kHebrew,
  kThai,
  kDevanagari,
  kOtherScript,
  kNumScripts
};

struct ScriptRange {
  uint32_t first, last;
  Script script;
};
constexpr ScriptRange kRanges[] = {
    {0x41, 0x24F, kLatin},       {0x370, 0x3FF, kGreek},    {0x400, 0x52F, kCyrillic},
    {0x590, 0x5FF, kHebrew},     {0x600, 0x6FF, kArabic},   {0x750, 0x77F, kArabic},
    {0x900, 0x97F, kDevanagari}, {0xE00, 0xE7F, kThai},     {0x1100, 0x11FF, kHangul},
    {0x1E00, 0x1EFF, kLatin},    {0x3040, 0x30FF, kKana},   {0x3130, 0x318F, kHangul},
    {0x3400, 0x4DBF, kHan},      {0x4E00, 0x9FFF, kHan},    {0xAC00, 0xD7AF, kHangul},
    {0xF900, 0xFAFF, kHan},      {0xFB50, 0xFDFF, kArabic}, {0xFE70, 0xFEFF, kArabic},
    {0x20000, 0x323AF, kHan},
};

Script script_of(uint32_t code_point) {
  for (const ScriptRange& range : kRanges)
    if (code_point >= range.first && code_point <= range.last) return range.script;
  return kOtherScript;
}

struct ScriptLanguage {
  const char* code;
  Script script;
};
constexpr ScriptLanguage kByScript[] = {
    {"ar", kArabic},   {"bg", kCyrillic},   {"el", kGreek},    {"fa", kArabic},
    {"he", kHebrew},   {"hi", kDevanagari}, {"ja", kKana},     {"ko", kHangul},
    {"ru", kCyrillic}, {"th", kThai},       {"uk", kCyrillic}, {"zh", kHan},
};

struct LatinLanguage {
  const char* code;
  const char* words;    // common and short, told apart from the neighbours'
  const char* letters;  // that few others have
};
constexpr LatinLanguage kLatinLanguages[] = {
    {"da",
     " og det er at jeg ikke som med til på af den har vi hvis så fordi hvor mange også derfor ",
     "æ ø"},
    {"de",
     " der die das und ist nicht ein eine wir ich zu den mit auf für von sich auch also wenn dann "
     "es sind wie aber dass muss hier ",
     "ß"},
    {"en",
     " the and is of to that we it so for this are be have with which let then but not as can if "
     "what need first now there ",
     ""},
    {"es",
     " el la los las que es en un una por con para se del como pero entonces si más son no lo este "
     "esta hay ",
     "ñ ¿ ¡"},
    {"fi", " ja on ei se että niin mutta kun ovat tämä siis jos myös voi nyt joten ", ""},
    {"fr",
     " le la les des est et que un une dans pour qui nous pas sur avec donc il ce se par du sont "
     "alors mais si plus au je ",
     "œ ç"},
    {"it",
     " il la che di è un una per non con sono del della quindi se come più ma questo gli anche "
     "dobbiamo allora ",
     ""},
    {"nl",
     " de het een en is van dat niet we te met op voor zijn dus als maar ook dan er wordt moeten "
     "nu ",
     ""},
    {"pl", " nie na się że jest to do jak więc ale dla czy tak jeśli są co mamy ", "ł ż ś ę ą"},
    {"pt", " os as que é e em um uma para com não se por mas então como são mais isso temos ",
     "ã õ"},
    {"sv",
     " och det är att jag inte som med till på av den har vi om så eftersom hur också därför ", ""},
    {"tr", " ve bir bu için ile olarak ne da de çok olan ama eğer gibi daha değil sonra ", "ğ ı ş"},
};

struct Word {
  std::string text;  // lower case
  Script script;
};

uint32_t lower_latin(uint32_t c) {
  if (c >= 'A' && c <= 'Z') return c + 32;
  if (c >= 0xC0 && c <= 0xDE && c != 0xD7) return c + 32;
  if (c >= 0x100 && c <= 0x17F && c % 2 == 0 && c != 0x130 && c != 0x138) return c + 1;
  return c;
}

/// Text without code, formulas, commands and tags.
std::string prose(std::string_view text) {
  std::string out;
  bool fenced = false;
  for (size_t line = 0; line < text.size();) {
    const size_t end = std::min(text.find('\n', line), text.size());
    const std::string_view content = text.substr(line, end - line);
    if (trim(content).starts_with("```")) {
      fenced = !fenced;
    } else if (!fenced) {
      char closing = '\0';
      for (size_t i = 0; i < content.size(); ++i) {
        const char c = content[i];
        if (closing != '\0') {
          closing = c == closing ? '\0' : closing;
        } else if (c == '`' || (c == '$' && content.find('$', i + 1) != std::string_view::npos)) {
          closing = c;
        } else if (c == '\\') {
          while (i + 1 < content.size() && std::isalpha(static_cast<unsigned char>(content[i + 1])))
            ++i;
        } else {
          out += c;
        }
      }
      out += '\n';
    }
    line = end + 1;
  }
  return out;
}

bool ends_sentence(uint32_t c) {
  return c == '.' || c == '!' || c == '?' || c == '\n' || c == ';' || c == 0x3002;
}

/// Sentences as words.
std::vector<std::vector<Word>> sentences(std::string_view raw) {
  const std::string text = data::replace_invalid_utf8(prose(raw));
  const uint8_t* classes = data::char_classes();
  std::vector<std::vector<Word>> out(1);
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const auto [c, length] = data::decode_utf8(text.data() + i);
    i += length;
    const bool letter = (classes[c] & (data::kLetter | data::kMark)) != 0;
    if (!letter) {
      inside = inside && c == '\'';
      if (c == '\'') inside = false;
      // An opening mark tells Spanish.
      if (c == 0xBF || c == 0xA1) out.back().push_back({c == 0xBF ? "¿" : "¡", kLatin});
      if (ends_sentence(c) && !out.back().empty()) out.emplace_back();
      continue;
    }
    const Script script = script_of(c);
    const bool alone = script == kHan || script == kKana || script == kThai;
    if (!inside || alone || out.back().empty()) out.back().push_back({"", script});
    inside = !alone;
    data::append_utf8(lower_latin(c), out.back().back().text);
  }
  return out;
}

bool has_word(const char* list, const std::string& word) {
  return std::string_view(list).find(" " + word + " ") != std::string_view::npos;
}

bool has_letter(const char* letters, const std::string& word) {
  std::string_view rest = letters;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(' '), rest.size());
    if (word.find(rest.substr(0, end)) != std::string::npos) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

/// The Latin languages with the most hits in a sentence; none where no word tells.
std::set<std::string> latin_languages(const std::vector<Word>& sentence) {
  std::set<std::string> best;
  int most = 0;
  for (const LatinLanguage& language : kLatinLanguages) {
    int hits = 0;
    for (const Word& word : sentence)
      if (word.script == kLatin)
        hits += has_word(language.words, word.text) || has_letter(language.letters, word.text);
    if (hits > most) best.clear();
    most = std::max(most, hits);
    if (hits == most && hits > 0) best.insert(language.code);
  }
  return best;
}

}  // namespace

const std::vector<std::string>& known_languages() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> codes;
    for (const auto& language : kByScript) codes.emplace_back(language.code);
    for (const auto& language : kLatinLanguages) codes.emplace_back(language.code);
    std::sort(codes.begin(), codes.end());
    return codes;
  }();
  return all;
}

double language_share(std::string_view text, const std::string& language) {
  const auto* by_script = std::find_if(std::begin(kByScript), std::end(kByScript),
                                       [&](const auto& entry) { return language == entry.code; });
  const bool latin = by_script == std::end(kByScript);
  double wanted = 0, told = 0;
  for (const auto& sentence : sentences(text)) {
    std::array<double, kNumScripts> words{};
    for (const Word& word : sentence) ++words[word.script];
    const bool japanese = words[kKana] > 0;  // whose sentences hold Han characters too
    double foreign = 0;
    for (int script = kHan; script < kNumScripts; ++script)
      foreign += words[static_cast<size_t>(script)];
    const auto tongues = latin_languages(sentence);
    // Single letters and unknown names among another script say nothing.
    if (!tongues.empty()) told += words[kLatin];
    told += foreign;
    if (latin) {
      if (tongues.count(language) > 0) wanted += words[kLatin];
    } else if (language == "ja") {
      wanted += japanese ? words[kKana] + words[kHan] : 0;
    } else if (language == "zh") {
      wanted += japanese ? 0 : words[kHan];
    } else {
      wanted += words[by_script->script];
    }
  }
  return told > 0 ? wanted / told : 0;
}

}  // namespace tessera::rl
