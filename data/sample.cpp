#include "data/sample.h"

#include <algorithm>

#include "core/error.h"
#include "data/chat_mask.h"

namespace tessera::data {

namespace {

template <typename... Parts>
[[noreturn]] void refuse(std::string_view where, const Parts&... parts) {
  throw ConfigError(detail::concat(where, ": ", parts...));
}

constexpr const char* kFormats =
    "{\"messages\": [..]}, {\"prompt\": .., \"completion\": ..}, {\"text\": ..} or {\"tokens\": "
    "[..], \"loss_mask\": [..]}";

const std::string& string_field(const Json& line, const char* key, std::string_view where) {
  const Json& value = line[key];
  if (!value.is_string())
    refuse(where, "\"", key, "\" is ", json_kind(value), "; it must be a string");
  return value.get_ref<const std::string&>();
}

int32_t end_token(const Tokenizer& tokenizer, std::string_view where) {
  const auto id = tokenizer.eos_id();
  if (!id)
    refuse(where, "the tokenizer has no end-of-text token; set eos_token in tokenizer_config.json");
  return *id;
}

void check_trained(const EncodedSample& sample, std::string_view where, const char* hint) {
  if (std::find(sample.loss_mask.begin(), sample.loss_mask.end(), 1) == sample.loss_mask.end()) {
    refuse(where, "no token of this sample is trained; ", hint);
  }
}

EncodedSample encode_completion(const Json& line, const Tokenizer& tokenizer,
                                std::string_view where) {
  EncodedSample sample;
  sample.tokens = tokenizer.opening();
  const auto prompt = tokenizer.encode(string_field(line, "prompt", where));
  sample.tokens.insert(sample.tokens.end(), prompt.begin(), prompt.end());
  sample.loss_mask.assign(sample.tokens.size(), 0);
  const auto answer = tokenizer.encode(string_field(line, "completion", where));
  sample.tokens.insert(sample.tokens.end(), answer.begin(), answer.end());
  sample.tokens.push_back(end_token(tokenizer, where));
  sample.loss_mask.resize(sample.tokens.size(), 1);
  sample.loss_mask[0] = 0;
  check_trained(sample, where, "give it a prompt or a completion");
  return sample;
}

EncodedSample read_tokens(const Json& line, const Tokenizer& tokenizer, std::string_view where) {
  if (!line.contains("loss_mask"))
    refuse(where, "\"tokens\" needs a \"loss_mask\" of the same length");
  const Json& tokens = line["tokens"];
  const Json& mask = line["loss_mask"];
  if (!tokens.is_array())
    refuse(where, "\"tokens\" is ", json_kind(tokens), "; it must be a list of ids");
  if (!mask.is_array())
    refuse(where, "\"loss_mask\" is ", json_kind(mask), "; it must be a list of 0 and 1");
  if (tokens.size() != mask.size()) {
    refuse(where, "\"tokens\" has ", tokens.size(), " entries and \"loss_mask\" ", mask.size(),
           "; they must match");
  }
  EncodedSample sample;
  const int64_t vocabulary = tokenizer.vocab_size();
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i].is_number_integer())
      refuse(where, "tokens[", i, "] is ", json_kind(tokens[i]), "; it must be an id");
    const bool huge = tokens[i].is_number_unsigned() && tokens[i].get<uint64_t>() > INT32_MAX;
    if (huge || tokens[i].get<int64_t>() < 0 || tokens[i].get<int64_t>() >= vocabulary) {
      refuse(where, "tokens[", i, "] = ", tokens[i].dump(), " is outside of the vocabulary of ",
             vocabulary, " tokens");
    }
    if (!mask[i].is_number_integer() || (mask[i] != 0 && mask[i] != 1)) {
      refuse(where, "loss_mask[", i,
             "] = ", mask[i].dump(-1, ' ', true, Json::error_handler_t::replace),
             "; it must be 0 or 1");
    }
    sample.tokens.push_back(tokens[i].get<int32_t>());
    sample.loss_mask.push_back(mask[i] == 1 && i > 0 ? 1 : 0);  // nothing predicts the first token
  }
  check_trained(sample, where, "set loss_mask to 1 for some token behind the first");
  return sample;
}

// The rendered chat in the tokenizer's normal form, its answers' offsets moved along.
RenderedChat normalized(RenderedChat chat, const Tokenizer& tokenizer, std::string_view where) {
  std::string form = tokenizer.normalize(chat.text);
  if (form == chat.text) return chat;
  const auto move = [&](size_t& offset, size_t message) {
    const std::string prefix = tokenizer.normalize(std::string_view(chat.text).substr(0, offset));
    if (!form.starts_with(prefix)) {
      refuse(where, "message ", message + 1,
             " begins or ends with a character that combines with the template's text");
    }
    offset = prefix.size();
  };
  for (auto& answer : chat.answers) {
    move(answer.begin, answer.message);
    move(answer.end, answer.message);
  }
  for (size_t& place : chat.plain)
    place = tokenizer.normalize(std::string_view(chat.text).substr(0, place)).size();
  chat.text = std::move(form);
  return chat;
}

}  // namespace

EncodedSample encode_text(std::string_view text, const Tokenizer& tokenizer,
                          std::string_view where) {
  if (text.empty()) refuse(where, "no token of this sample is trained; the text is empty");
  EncodedSample sample;
  sample.tokens = tokenizer.encode_whole(text);
  const int32_t end = end_token(tokenizer, where);
  if (sample.tokens.empty() || sample.tokens.back() != end) sample.tokens.push_back(end);
  sample.loss_mask.assign(sample.tokens.size(), 1);
  sample.loss_mask[0] = 0;
  check_trained(sample, where, "the text is empty");
  return sample;
}

namespace {
// The text of a chat, with the answers in it unless only a prompt is wanted.
RenderedChat render_chat(const Json& messages, const Json& extra, const ChatOptions& options,
                         bool prompt_only, const ChatTemplate& chat_template) {
  RenderedChat chat;
  if (!prompt_only) chat = chat_template.render_with_answers(messages, extra);
  if (!prompt_only && !options.add_generation_prompt) return chat;
  std::string text = chat_template.render(messages, options.add_generation_prompt, extra);
  if (!chat.answers.empty() &&
      text.compare(0, chat.answers.back().end, chat.text, 0, chat.answers.back().end) != 0) {
    throw UnprovenMask(
        "the chat template changes earlier turns when it adds the generation prompt");
  }
  chat.text = std::move(text);
  return chat;
}

// The same with the special tokens' look-alikes kept text, in the tokenizer's normal form. `doubts`
// takes what is wrong with the answers when the chat is not for training.
RenderedChat chat_text(const Json& messages, const Json& extra, const ChatOptions& options,
                       bool prompt_only, const Tokenizer& tokenizer,
                       const ChatTemplate& chat_template, std::string_view where,
                       std::vector<std::string>& doubts) {
  check_messages(messages, where);
  const auto protect = [&](const Json& value) {
    return options.plain_content ? mark_plain(value, tokenizer.special_tokens()) : value;
  };
  RenderedChat chat;
  try {
    const Json safe_messages = protect(messages), safe_extra = protect(extra);
    try {
      chat = render_chat(safe_messages, safe_extra, options, prompt_only, chat_template);
    } catch (const UnprovenMask& doubt) {
      if (options.training) throw;
      doubts.emplace_back(doubt.what());
      chat = render_chat(safe_messages, safe_extra, options, true, chat_template);
    }
  } catch (const ConfigError& error) {
    refuse(where, error.what());
  }
  if (options.plain_content) unmark_plain(chat);
  return normalized(std::move(chat), tokenizer, where);
}
}  // namespace

EncodedSample encode_chat(const Json& messages, const Json& extra, const ChatOptions& options,
                          const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                          std::string_view where) {
  EncodedSample sample;
  RenderedChat chat =
      chat_text(messages, extra, options, false, tokenizer, chat_template, where, sample.doubts);
  std::vector<int64_t> ends;
  sample.tokens = tokenizer.encode(chat.text, ends, chat.plain);
  end_before_special(chat, sample.tokens, ends, tokenizer);
  sample.rewritten = chat.rewritten;
  const TokenizedChat tokenized{chat, sample.tokens, ends};
  for (std::string& doubt : mark_answers(tokenized, tokenizer, sample.loss_mask))
    sample.doubts.push_back(std::move(doubt));
  if (sample.doubts.empty()) {
    const std::string wrong = check_mask(tokenized, tokenizer, sample.loss_mask);
    if (!wrong.empty()) sample.doubts.push_back(wrong);
  }
  if (options.training && !sample.doubts.empty()) refuse(where, sample.doubts.front());
  return sample;
}

std::vector<int32_t> encode_prompt(const Json& messages, const Json& extra,
                                   const ChatOptions& options, const Tokenizer& tokenizer,
                                   const ChatTemplate& chat_template, std::string_view where) {
  std::vector<std::string> doubts;
  const RenderedChat chat =
      chat_text(messages, extra, options, true, tokenizer, chat_template, where, doubts);
  std::vector<int64_t> ends;
  return tokenizer.encode(chat.text, ends, chat.plain);
}

Json template_variables(const Json& line, std::string_view where) {
  Json extra = Json::object();
  if (const auto more = line.find("chat_template_kwargs"); more != line.end() && !more->is_null()) {
    if (!more->is_object())
      refuse(where, "\"chat_template_kwargs\" is ", json_kind(*more), "; it must be an object");
    extra = *more;
  }
  for (const char* key : {"tools", "documents"}) {
    const auto list = line.find(key);
    if (list == line.end() || list->is_null()) continue;
    if (!list->is_array())
      refuse(where, "\"", key, "\" is ", json_kind(*list), "; it must be a list");
    extra[key] = *list;
  }
  if (const auto thinking = line.find("enable_thinking"); thinking != line.end()) {
    if (!thinking->is_boolean()) refuse(where, "\"enable_thinking\" must be true or false");
    extra["enable_thinking"] = *thinking;
  }
  return extra;
}

EncodedSample encode_sample(const Json& line, const Tokenizer& tokenizer,
                            const ChatTemplate* chat_template, std::string_view where,
                            bool plain_content) {
  if (!line.is_object())
    refuse(where, "a line must be a JSON object, not ", json_kind(line), "; accepted: ", kFormats);
  const bool chat = line.contains("messages"), text = line.contains("text"),
             tokens = line.contains("tokens");
  const bool completion = line.contains("prompt") && line.contains("completion");
  const int formats = chat + text + tokens + completion;
  if (formats > 1) refuse(where, "more than one sample in a line; keep one of ", kFormats);
  if (formats == 0) {
    std::string keys;
    for (const auto& [key, value] : line.items())
      keys += (keys.empty() ? "\"" : ", \"") + key + "\"";
    refuse(where, "no training sample", keys.empty() ? "" : " with the keys " + keys,
           "; accepted: ", kFormats);
  }
  if (text) return encode_text(string_field(line, "text", where), tokenizer, where);
  if (tokens) return read_tokens(line, tokenizer, where);
  if (completion) return encode_completion(line, tokenizer, where);
  if (chat_template == nullptr) {
    refuse(where,
           "\"messages\" needs a chat template; add chat_template.jinja to the model folder");
  }
  EncodedSample sample =
      encode_chat(line["messages"], template_variables(line, where),
                  {.plain_content = plain_content}, tokenizer, *chat_template, where);
  check_trained(sample, where, "the chat needs a message with the role \"assistant\"");
  return sample;
}

}  // namespace tessera::data
