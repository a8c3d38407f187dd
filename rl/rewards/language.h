// Which share of a text is in a language: the reward that keeps a model from mixing languages while
// it thinks (DeepSeek-R1, arXiv 2501.12948, section 2.3.2).
//
// Languages with a script of their own are told by the script. Languages in Latin letters are told
// sentence by sentence from their commonest words and from letters that few share; the words of a
// sentence count for the language with the most of these, of a sentence without any for none. This
// is no language identification: a sentence of names or formulas says nothing, and neighbours
// (es/pt, sv/da/no) are told apart by few words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera::rl {

/// ISO 639-1 codes, in order.
[[nodiscard]] const std::vector<std::string>& known_languages();

/// Share 0..1 of the words that can be told (a character counts as a word in Chinese, Japanese,
/// Thai). Code blocks, formulas and commands do not count. 0 for a text without words; `language`
/// must be a known one.
[[nodiscard]] double language_share(std::string_view text, const std::string& language);

}  // namespace tessera::rl
