#include "launch/app.h"

#include <iostream>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "data/sample.h"
#include "model/hf_folder.h"
#include "parallel/text_exchange.h"

namespace tessera::launch {

LoadedModel load_for_inference(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) throw ConfigError("--model " + folder.string() + " is no folder");
  const auto base = model::base_folder(folder);
  LoadedModel loaded{nullptr, data::Tokenizer::load(base), data::ChatTemplate::load_if_present(base), false};
  loaded.model = model::load_model(folder);
  return loaded;
}

std::vector<int32_t> prompt_tokens(const data::Json& line, const LoadedModel& loaded, const char* text_key,
                                   bool add_generation_prompt, const std::string& where) {
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
    if (!loaded.chat_template) throw ConfigError(where + ": the model has no chat template; give '" + text_key + "'");
    ids = data::encode_prompt(line["messages"], data::template_variables(line, where),
                              {.add_generation_prompt = add_generation_prompt, .plain_content = loaded.plain_content},
                              loaded.tokenizer, *loaded.chat_template, where);
  } else if (line.contains(text_key)) {
    if (!line[text_key].is_string()) throw ConfigError(where + ": '" + text_key + "' must be a string");
    ids = loaded.tokenizer.encode_whole(line[text_key].get<std::string>());
  } else {
    throw ConfigError(where + ": needs 'tokens', '" + text_key + "' or 'messages'");
  }
  if (ids.empty()) throw ConfigError(where + ": has no token");
  const int64_t vocabulary = loaded.model->config().vocab_size, longest = loaded.model->config().max_position_embeddings;
  for (int32_t id : ids)
    if (id < 0 || id >= vocabulary)
      throw ConfigError(detail::concat(where, ": token ", id < 0 ? std::string("id") : std::to_string(id), " is outside the model's vocabulary of ", vocabulary));
  if (static_cast<int64_t>(ids.size()) > longest)
    throw ConfigError(detail::concat(where, ": ", ids.size(), " tokens are more than the model's max_position_embeddings = ", longest));
  return ids;
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
    lines.push_back({data::parse_json(line, where), where});
    if (!lines.back().value.is_object()) throw ConfigError(where + ": must be a JSON object");
  }
  if (lines.empty()) throw ConfigError(path.string() + " holds no lines");
  return lines;
}

std::vector<std::string> share_out(App& app, int64_t count,
                                   const std::function<std::vector<std::string>(int64_t, int64_t)>& work) {
  const int64_t rank = app.world.rank(), size = app.world.size();
  std::vector<std::string> mine;
  {
    const auto busy = app.world.announce("working on its share");
    mine = work(count * rank / size, count * (rank + 1) / size);
  }
  if (size == 1) return mine;
  std::string joined;
  for (const auto& line : mine) joined += line + "\n";
  std::vector<std::string> all;
  for (const auto& part : parallel::all_gather_text(app.world, joined)) {
    std::istringstream lines(part);
    for (std::string line; app.first() && std::getline(lines, line);) all.push_back(line);
  }
  return all;
}

void write_lines(const std::filesystem::path& path, const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  if (path.empty()) {
    std::cout << text << std::flush;
  } else {
    write_file_atomically(path, text);
  }
}

}  // namespace tessera::launch
