// Chat templates: messages -> text, as transformers' apply_chat_template(tokenize=False) writes it,
// and which parts of the text the assistant says. A bounded interpreter runs the part of Jinja that
// such templates use; what it does not know it refuses with the template's line.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/json.h"

namespace tessera::data {

namespace jinja {
struct Node;
}

/// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin, end;
};

/// A chat as text, and for each assistant message what the assistant says in it: all that the
/// template makes of the message behind the generation prompt, with the end token and what else it
/// writes behind that.
struct RenderedChat {
  struct Answer {
    size_t message, begin, end;
  };
  std::string text;
  std::vector<Answer> answers;
  std::vector<size_t> plain;  // places in what looks like a special token and is text
  int64_t rewritten = 0;  // answers of which the template drops a part because more turns follow
};

/// It cannot be told from a chat's text what the assistant says.
class UnprovenMask : public ConfigError {
 public:
  using ConfigError::ConfigError;
};

class ChatTemplate final {
 public:
  /// From chat_template.jinja, else tokenizer_config.json's chat_template (of several the one named
  /// "default", and "tool_use" for a chat with tools); special tokens (bos_token, ...) come from
  /// the latter. Throws ConfigError when the folder has none or it does not parse.
  [[nodiscard]] static ChatTemplate load(const std::filesystem::path& model_folder);
  /// The same, or nothing when the folder has no template.
  [[nodiscard]] static std::optional<ChatTemplate> load_if_present(
      const std::filesystem::path& model_folder);
  /// `variables`: an object of further names, such as bos_token.
  explicit ChatTemplate(std::string_view source, const Json& variables = Json::object(),
                        std::string name = "chat template");
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// As transformers' apply_chat_template(messages, add_generation_prompt=.., **extra): members of
  /// a message that are null are left out, and reasoning goes by all of its names. `extra`: an
  /// object of further names for this chat (tools, documents, enable_thinking, ...). Throws
  /// ConfigError; thread-safe.
  [[nodiscard]] std::string render(const Json& messages, bool add_generation_prompt,
                                   const Json& extra = Json::object()) const;

  /// Renders a whole chat and finds the assistant's answers. Where messages[:i] with the generation
  /// prompt opens messages[:i+1], and that the whole text, the answer is what lies between. Where
  /// the template writes the turn differently later on (R1 and Qwen3 drop earlier thoughts), it is
  /// found by what changes in the text when the message does. Throws ConfigError, showing the text,
  /// where that proves nothing.
  [[nodiscard]] RenderedChat render_with_answers(const Json& messages,
                                                 const Json& extra = Json::object()) const;

  [[nodiscard]] const std::string& hash() const { return hash_; }

 private:
  std::string name_, hash_;
  std::unique_ptr<jinja::Node> program_, tool_program_;  // the second, if any, for chats with tools
  Json variables_;
};

/// Keeps text what looks like a special token: a mark goes into each of `tokens` in the strings of
/// `value` (not in roles); unmark_plain() takes the marks out of the rendered text again and notes
/// where they were.
[[nodiscard]] Json mark_plain(const Json& value, const std::vector<std::string>& tokens);
void unmark_plain(RenderedChat& chat);

/// Throws ConfigError "where: ..." unless `messages` is a non-empty list of objects with a "role".
void check_messages(const Json& messages, std::string_view where);

}  // namespace tessera::data
