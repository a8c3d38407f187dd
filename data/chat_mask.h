// The loss mask of a chat: from the answers' places in the text to trained tokens, and the proof
// that it is right.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/chat_template.h"
#include "data/tokenizer.h"

namespace tessera::data {

/// A tokenised chat. Token i ends at byte ends[i] of chat.text.
struct TokenizedChat {
  const RenderedChat& chat;
  const std::vector<int32_t>& tokens;
  const std::vector<int64_t>& ends;
};

/// Moves the end of an answer that lies inside of a special token to that token's begin: the
/// template's next turn.
void end_before_special(RenderedChat& chat, const std::vector<int32_t>& tokens,
                        const std::vector<int64_t>& ends, const Tokenizer& tokenizer);

/// Marks each answer's tokens up to the special token that ends the turn, not what stands behind
/// it. Returns what is wrong with an answer, one message each: it begins inside of a token, or no
/// special token ends it. Such an answer's doubtful tokens are not trained.
[[nodiscard]] std::vector<std::string> mark_answers(const TokenizedChat& tokenized,
                                                    const Tokenizer& tokenizer,
                                                    std::vector<uint8_t>& mask);

/// Proves a mask from the text alone: trained are exactly the tokens that lie between the begin of
/// an answer and the end of the special token that closes it, and each answer has one. Returns what
/// is wrong, "" if nothing.
[[nodiscard]] std::string check_mask(const TokenizedChat& tokenized, const Tokenizer& tokenizer,
                                     const std::vector<uint8_t>& mask);

}  // namespace tessera::data
