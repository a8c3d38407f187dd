// Prompts for generation: from lines of JSON to token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat_template.h"
#include "data/json.h"
#include "data/tokenizer.h"

namespace tessera::data {

/// One line of a JSONL file.
struct JsonLine {
  Json value;
  std::string where;  // file:line
};

/// All lines that are not blank. Throws ConfigError naming file and line; an empty file is an error.
[[nodiscard]] std::vector<JsonLine> read_jsonl(const std::filesystem::path& path);

/// Whether a prompt's text ends in <think>, as templates of reasoning models write it: the completion begins inside of the thoughts.
[[nodiscard]] bool opens_thinking(std::string_view prompt);

/// A model's way to read prompts. What it refers to must outlive it.
struct PromptReader {
  const Tokenizer& tokenizer;
  const ChatTemplate* chat_template = nullptr;  // null: it has none
  int64_t vocabulary = 0;                       // of the model
  bool plain_content = false;                   // special tokens inside of messages are text

  /// Token ids of a line's "tokens", `text_key` or "messages". Throws ConfigError "where: ...".
  [[nodiscard]] std::vector<int32_t> read(const Json& line, const char* text_key, bool add_generation_prompt, const std::string& where) const;
  /// The question of a line that also holds what is right: messages without the assistant's closing turn; a prompt, asked as a chat if
  /// the model has a template. What the template reads besides messages is kept.
  [[nodiscard]] Json question_of(const Json& line, const std::string& where) const;
};

}  // namespace tessera::data
