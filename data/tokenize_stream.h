// The body of `tessera tokenize`: JSONL in, JSONL out.
#pragma once

#include <istream>
#include <ostream>

#include "data/chat_template.h"
#include "data/tokenizer.h"

namespace tessera::data {

/// Each line {"text", "add_special_tokens"?} or {"messages", "add_generation_prompt"?, and what
/// template_variables() reads} becomes {"ids": [..], "loss_mask": [..]}, in order. A text is
/// tokenised as it stands, without an end token. Two more members appear where they apply:
/// "rewritten", the number of answers of which the template dropped a part, and "doubts", why
/// training would refuse the chat. With `plain_content` special tokens inside of messages and texts
/// are text. A line {"tokens", "skip_special_tokens"?} becomes {"text"}. Throws ConfigError
/// "stdin:line: ..."; returns 0.
int run_tokenize(std::istream& in, std::ostream& out, const Tokenizer& tokenizer,
                 const ChatTemplate* chat_template, bool plain_content = false);

}  // namespace tessera::data
