#include "data/tokenize_stream.h"

#include <string>

#include "core/error.h"
#include "data/sample.h"

namespace tessera::data {

namespace {
EncodedSample tokenize_line(const Json& line, const Tokenizer& tokenizer,
                            const ChatTemplate* chat_template, bool plain_content,
                            const std::string& where) {
  const bool is_object = line.is_object();
  if (is_object && line.contains("text")) {
    if (!line["text"].is_string())
      throw ConfigError(where + ": \"text\" is " + json_kind(line["text"]) +
                        "; it must be a string");
    EncodedSample sample;
    const std::string& text = line["text"].get_ref<const std::string&>();
    const bool whole = line.value("add_special_tokens", Json(false)) == true;
    sample.tokens = plain_content ? tokenizer.encode_ordinary(text)
                    : whole       ? tokenizer.encode_whole(text)
                                  : tokenizer.encode(text);
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
  const ChatOptions options{.add_generation_prompt = prompt.get<bool>(),
                            .plain_content = plain_content,
                            .training = false};
  return encode_chat(line["messages"], template_variables(line, where), options, tokenizer,
                     *chat_template, where);
}

// {"tokens"} -> {"text"}
Json decode_line(const Json& line, const Tokenizer& tokenizer, const std::string& where) {
  std::vector<int32_t> ids;
  for (const Json& id : line["tokens"]) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
      throw ConfigError(where + ": \"tokens\" must be a list of ids");
    ids.push_back(id.get<int32_t>());
  }
  return {{"text", tokenizer.decode(ids, line.value("skip_special_tokens", Json(false)) == true)}};
}

Json answer_line(const Json& line, const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                 bool plain_content, const std::string& where) {
  if (line.is_object() && line.contains("tokens") && line["tokens"].is_array())
    return decode_line(line, tokenizer, where);
  const EncodedSample sample = tokenize_line(line, tokenizer, chat_template, plain_content, where);
  Json answer;
  answer["ids"] = sample.tokens;
  answer["loss_mask"] = sample.loss_mask;
  if (sample.rewritten > 0) answer["rewritten"] = sample.rewritten;
  if (!sample.doubts.empty()) answer["doubts"] = sample.doubts;
  return answer;
}
}  // namespace

int run_tokenize(std::istream& in, std::ostream& out, const Tokenizer& tokenizer,
                 const ChatTemplate* chat_template, bool plain_content) {
  std::string text;
  for (int64_t number = 1; std::getline(in, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = "stdin:" + std::to_string(number);
    const Json answer =
        answer_line(parse_json(text, where), tokenizer, chat_template, plain_content, where);
    out << answer.dump() << '\n';
  }
  out.flush();
  if (!out) throw Error("cannot write to standard output");
  return 0;
}

}  // namespace tessera::data
