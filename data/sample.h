// One training sample: a line of JSONL (or a text file) as token ids with a loss mask.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat_template.h"
#include "data/json.h"
#include "data/tokenizer.h"

namespace tessera::data {

struct EncodedSample {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> loss_mask;   // 1 = a target; 0 for the first token
  int64_t rewritten = 0;            // answers of which the chat template dropped a part
  std::vector<std::string> doubts;  // about the mask; none in training, which refuses
};

struct ChatOptions {
  bool add_generation_prompt = false;  // end with the opening of an assistant's turn
  bool plain_content = false;  // what looks like a special token inside a message stays text
  bool training = true;        // a mask that cannot be proven is refused, not reported
};

/// Encodes a training line: {"messages", "tools"?}, {"prompt", "completion"}, {"text"} or
/// {"tokens", "loss_mask"}; other keys are left to rewards and provenance. `chat_template` may be
/// null where no line has messages. Throws ConfigError, opening with `where` ("file:line"): no such
/// format, wrong types, an id outside the vocabulary, no trained token, an assistant's turn without
/// a trained end token.
[[nodiscard]] EncodedSample encode_sample(const Json& line, const Tokenizer& tokenizer,
                                          const ChatTemplate* chat_template, std::string_view where,
                                          bool plain_content = false);

/// A document for pre-training: the text, then the end token; all but the first token are targets.
[[nodiscard]] EncodedSample encode_text(std::string_view text, const Tokenizer& tokenizer,
                                        std::string_view where);

/// Tokenises a chat as transformers does (the rendered text as a whole). Targets are what the
/// assistant says and the token that ends its turn, not the text behind it.
[[nodiscard]] EncodedSample encode_chat(const Json& messages, const Json& extra,
                                        const ChatOptions& options, const Tokenizer& tokenizer,
                                        const ChatTemplate& chat_template, std::string_view where);

/// The ids of a chat that the model is to answer, without a mask.
[[nodiscard]] std::vector<int32_t> encode_prompt(const Json& messages, const Json& extra,
                                                 const ChatOptions& options,
                                                 const Tokenizer& tokenizer,
                                                 const ChatTemplate& chat_template,
                                                 std::string_view where);

/// The variables a line hands to the template: "tools", "documents", "enable_thinking" and the
/// members of "chat_template_kwargs".
[[nodiscard]] Json template_variables(const Json& line, std::string_view where);

}  // namespace tessera::data
