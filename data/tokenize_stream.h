// The body of `tessera tokenize`: JSONL in, JSONL out.
#pragma once

#include <istream>
#include <ostream>

#include "data/chat_template.h"
#include "data/tokenizer.h"

namespace tessera::data {

/// Each line {"text"} or {"messages", "add_generation_prompt"?, "tools"?, "enable_thinking"?}
/// becomes
/// {"ids": [..], "loss_mask": [..]}, in order. A text is tokenised as it stands, without an end
/// token. Throws ConfigError "stdin:line: ..."; returns 0.
int run_tokenize(std::istream& in, std::ostream& out, const Tokenizer& tokenizer,
                 const ChatTemplate* chat_template);

}  // namespace tessera::data
