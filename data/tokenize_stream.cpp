#include "data/tokenize_stream.h"

#include <string>

#include "core/error.h"
#include "data/sample.h"

namespace tessera::data {

namespace {
EncodedSample tokenize_line(const Json& line, const Tokenizer& tokenizer,
                            const ChatTemplate* chat_template, const std::string& where) {
  const bool is_object = line.is_object();
  if (is_object && line.contains("text")) {
    if (!line["text"].is_string())
      throw ConfigError(where + ": \"text\" is " + json_kind(line["text"]) +
                        "; it must be a string");
    EncodedSample sample;
    sample.tokens = tokenizer.encode(line["text"].get_ref<const std::string&>());
    sample.loss_mask.assign(sample.tokens.size(), 1);
    if (!sample.tokens.empty()) sample.loss_mask[0] = 0;
    return sample;
  }
  if (!is_object || !line.contains("messages")) {
    throw ConfigError(where +
                      ": a line must be {\"text\": ..} or {\"messages\": [..], "
                      "\"add_generation_prompt\": true|false}");
  }
  if (chat_template == nullptr) {
    throw ConfigError(
        where +
        ": \"messages\" needs a chat template; add chat_template.jinja to the model folder");
  }
  const Json prompt = line.value("add_generation_prompt", Json(false));
  if (!prompt.is_boolean())
    throw ConfigError(where + ": \"add_generation_prompt\" must be true or false");
  return encode_chat(line["messages"], template_variables(line, where), prompt.get<bool>(),
                     tokenizer, *chat_template, where);
}
}  // namespace

int run_tokenize(std::istream& in, std::ostream& out, const Tokenizer& tokenizer,
                 const ChatTemplate* chat_template) {
  std::string text;
  for (int64_t number = 1; std::getline(in, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = "stdin:" + std::to_string(number);
    const EncodedSample sample =
        tokenize_line(parse_json(text, where), tokenizer, chat_template, where);
    Json answer;
    answer["ids"] = sample.tokens;
    answer["loss_mask"] = sample.loss_mask;
    out << answer.dump() << '\n';
  }
  out.flush();
  if (!out) throw Error("cannot write to standard output");
  return 0;
}

}  // namespace tessera::data
