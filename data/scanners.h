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

[[nodiscard]] const char* scan_gpt2(const char* p, const char* end);
[[nodiscard]] const char* scan_llama3(const char* p, const char* end);
[[nodiscard]] const char* scan_qwen2(const char* p, const char* end);

}  // namespace tessera::data
