#include "data/sample.h"

#include <algorithm>

#include "core/error.h"
#include "data/unicode.h"

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
  sample.tokens = tokenizer.encode(string_field(line, "prompt", where));
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
  chat.text = std::move(form);
  return chat;
}

bool is_blank(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = decode_utf8(text.data() + i);
    if (char_classes()[c.value] != kSpace) return false;
    i += c.length;
  }
  return true;
}

// Marks the answer's tokens up to the special token that ends the turn.
void mark_answer(const RenderedChat& chat, const RenderedChat::Answer& answer,
                 const std::vector<int64_t>& ends, const Tokenizer& tokenizer,
                 std::string_view where, EncodedSample& sample) {
  const auto begin = static_cast<int64_t>(answer.begin), end = static_cast<int64_t>(answer.end);
  const auto first =
      static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
  if (begin > 0 && (first == 0 || ends[first - 1] != begin)) {
    refuse(where, "message ", answer.message + 1,
           " (assistant) begins with text that the tokenizer joins with the template's; strip the "
           "white space before it");
  }
  size_t last = first;  // behind the last special token of the turn
  for (size_t i = first; i < ends.size() && ends[i] <= end; ++i) {
    if (tokenizer.is_special(sample.tokens[i])) last = i + 1;
  }
  const auto covered = last > first ? static_cast<size_t>(ends[last - 1]) : answer.begin;
  if (last == first ||
      !is_blank(std::string_view(chat.text).substr(covered, answer.end - covered))) {
    refuse(where, "message ", answer.message + 1,
           " (assistant): the chat template writes no special token behind the turn, so its end "
           "would not be trained; "
           "end the assistant's turns with the end-of-turn token in chat_template.jinja");
  }
  std::fill(sample.loss_mask.begin() + static_cast<std::ptrdiff_t>(first),
            sample.loss_mask.begin() + static_cast<std::ptrdiff_t>(last), 1);
}

}  // namespace

EncodedSample encode_text(std::string_view text, const Tokenizer& tokenizer,
                          std::string_view where) {
  EncodedSample sample;
  sample.tokens = tokenizer.encode(text);
  sample.tokens.push_back(end_token(tokenizer, where));
  sample.loss_mask.assign(sample.tokens.size(), 1);
  sample.loss_mask[0] = 0;
  check_trained(sample, where, "the text is empty");
  return sample;
}

EncodedSample encode_chat(const Json& messages, const Json& extra, bool add_generation_prompt,
                          const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                          std::string_view where) {
  check_messages(messages, where);
  RenderedChat chat;
  try {
    chat = chat_template.render_with_answers(messages, extra);
    if (add_generation_prompt) {
      std::string prompt = chat_template.render(messages, true, extra);
      if (!chat.answers.empty() &&
          prompt.compare(0, chat.answers.back().end, chat.text, 0, chat.answers.back().end) != 0) {
        throw ConfigError(
            "the chat template changes earlier turns when it adds the generation prompt");
      }
      chat.text = std::move(prompt);
    }
  } catch (const ConfigError& error) {
    refuse(where, error.what());
  }
  chat = normalized(std::move(chat), tokenizer, where);
  EncodedSample sample;
  std::vector<int64_t> ends;
  sample.tokens = tokenizer.encode(chat.text, ends);
  sample.loss_mask.assign(sample.tokens.size(), 0);
  for (const auto& answer : chat.answers) mark_answer(chat, answer, ends, tokenizer, where, sample);
  if (!sample.loss_mask.empty()) sample.loss_mask[0] = 0;
  return sample;
}

Json template_variables(const Json& line, std::string_view where) {
  Json extra = Json::object();
  if (const auto tools = line.find("tools"); tools != line.end() && !tools->is_null()) {
    if (!tools->is_array())
      refuse(where, "\"tools\" is ", json_kind(*tools), "; it must be a list");
    extra["tools"] = *tools;
  }
  if (const auto thinking = line.find("enable_thinking"); thinking != line.end()) {
    if (!thinking->is_boolean()) refuse(where, "\"enable_thinking\" must be true or false");
    extra["enable_thinking"] = *thinking;
  }
  return extra;
}

EncodedSample encode_sample(const Json& line, const Tokenizer& tokenizer,
                            const ChatTemplate* chat_template, std::string_view where) {
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
  EncodedSample sample = encode_chat(line["messages"], template_variables(line, where), false,
                                     tokenizer, *chat_template, where);
  check_trained(sample, where, "the chat needs a message with the role \"assistant\"");
  return sample;
}

}  // namespace tessera::data
