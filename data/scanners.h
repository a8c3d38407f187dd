// Hand-written equivalents of the split patterns most tokenizers use: each returns the end of the
// word that begins at `p`, for valid UTF-8 [p, end), p < end. Together the words cover the text.
#pragma once

#include <string_view>

namespace tessera::data {

inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// DeepSeek-V3 splits three times: numbers, Chinese and Japanese, the rest.
inline constexpr std::string_view kDeepSeekPatterns[] = {
    R"(\p{N}{1,3})", "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

/// A word of text without numbers, and either all Chinese and Japanese (of the second pattern) or
/// without: the third pattern. What the pattern leaves over makes words, too.
[[nodiscard]] const char* scan_deepseek(const char* p, const char* end);
/// Where the first two patterns end the piece that begins at `p`.
[[nodiscard]] const char* deepseek_piece(const char* p, const char* end);

[[nodiscard]] const char* scan_gpt2(const char* p, const char* end);
[[nodiscard]] const char* scan_llama3(const char* p, const char* end);
[[nodiscard]] const char* scan_qwen2(const char* p, const char* end);

}  // namespace tessera::data
