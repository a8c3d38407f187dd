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

#include "data/json.h"

namespace tessera::data {

namespace jinja {
struct Node;
}

/// A chat as text, and for each assistant message the range [begin, end) of what the template makes
/// of it behind the generation prompt: content, end token and what else it writes.
struct RenderedChat {
  struct Answer {
    size_t message, begin, end;
  };
  std::string text;
  std::vector<Answer> answers;
};

class ChatTemplate final {
 public:
  /// From chat_template.jinja, else tokenizer_config.json's chat_template; special tokens
  /// (bos_token, ...) come from the latter. Throws ConfigError when the folder has none or it does
  /// not parse.
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

  /// `extra`: an object of further names for this chat (tools, enable_thinking, ...). Throws
  /// ConfigError; thread-safe.
  [[nodiscard]] std::string render(const Json& messages, bool add_generation_prompt,
                                   const Json& extra = Json::object()) const;

  /// Renders a whole chat and finds the assistant's answers by rendering every prefix: messages[:i]
  /// with the generation prompt, and messages[:i+1], must both open the text. Throws ConfigError
  /// naming the turn where they do not.
  [[nodiscard]] RenderedChat render_with_answers(const Json& messages,
                                                 const Json& extra = Json::object()) const;

  [[nodiscard]] const std::string& hash() const { return hash_; }

 private:
  std::string name_, hash_;
  std::unique_ptr<jinja::Node> program_;
  Json variables_;
};

/// Throws ConfigError "where: ..." unless `messages` is a non-empty list of objects with a "role".
void check_messages(const Json& messages, std::string_view where);

}  // namespace tessera::data
