#include "data/prompt.h"

#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "data/sample.h"

namespace tessera::data {

bool opens_thinking(std::string_view prompt) {
  const size_t end = prompt.find_last_not_of(" \t\r\n");
  return end != std::string_view::npos && prompt.substr(0, end + 1).ends_with("<think>");
}

std::vector<JsonLine> read_jsonl(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) throw ConfigError(path.string() + " does not exist");
  std::istringstream text(read_text_file(path));
  std::vector<JsonLine> lines;
  int64_t number = 0;
  for (std::string line; std::getline(text, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = path.string() + ":" + std::to_string(number);
    lines.push_back({parse_json(line, where), where});
    if (!lines.back().value.is_object()) throw ConfigError(where + ": must be a JSON object");
  }
  if (lines.empty()) throw ConfigError(path.string() + " holds no lines");
  return lines;
}

std::vector<int32_t> PromptReader::read(const Json& line, const char* text_key, bool add_generation_prompt, const std::string& where) const {
  std::vector<int32_t> ids;
  if (line.contains("tokens")) {
    if (!line["tokens"].is_array()) throw ConfigError(where + ": 'tokens' must be a list of ids");
    for (const auto& id : line["tokens"]) {
      if (!id.is_number_integer()) throw ConfigError(where + ": 'tokens' must be a list of ids");
      // Beyond 32 bits: left to the vocabulary check below, not wrapped into it.
      const bool fits = id.is_number_unsigned() ? id.get<uint64_t>() <= INT32_MAX : id.get<int64_t>() >= 0;
      ids.push_back(fits ? id.get<int32_t>() : -1);
    }
  } else if (line.contains("messages")) {
    if (!chat_template) throw ConfigError(where + ": the model has no chat template; give '" + text_key + "'");
    ids = encode_prompt(line["messages"], template_variables(line, where),
                              {.add_generation_prompt = add_generation_prompt, .plain_content = plain_content},
                              tokenizer, *chat_template, where);
  } else if (line.contains(text_key)) {
    if (!line[text_key].is_string()) throw ConfigError(where + ": '" + text_key + "' must be a string");
    ids = tokenizer.encode_whole(line[text_key].get<std::string>());
  } else {
    throw ConfigError(where + ": needs 'tokens', '" + text_key + "' or 'messages'");
  }
  if (ids.empty()) throw ConfigError(where + ": has no token");
  for (int32_t id : ids)
    if (id < 0 || id >= vocabulary)
      throw ConfigError(detail::concat(where, ": token ", id < 0 ? std::string("id") : std::to_string(id), " is outside the model's vocabulary of ", vocabulary));
  return ids;
}

Json PromptReader::question_of(const Json& line, const std::string& where) const {
  Json question;
  for (const char* key : {"tools", "documents", "enable_thinking", "chat_template_kwargs"})
    if (line.contains(key)) question[key] = line[key];
  if (line.contains("messages")) {
    check_messages(line["messages"], where);
    question["messages"] = line["messages"];
    auto& messages = question["messages"];
    if (messages.back().value("role", "") == "assistant") messages.erase(messages.size() - 1);
  } else if (line.contains("prompt") && chat_template != nullptr && line["prompt"].is_string()) {
    question["messages"] = Json::array({{{"role", "user"}, {"content", line["prompt"]}}});
  } else if (line.contains("prompt")) {
    question["prompt"] = line["prompt"];
  }
  return question;
}

}  // namespace tessera::data
