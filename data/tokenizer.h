// BPE from a Hugging Face model folder: text -> ids, identical to the tokenizers library, and back.
//
// Follows tokenizer.json: added tokens are cut out, the rest is normalised, split by the
// pre-tokenizer and merged by BPE, over bytes (GPT-2, Llama 3, Qwen, DeepSeek) or over characters
// with byte fallback (Llama 2, Mistral, Gemma). Anything in the file that is not supported is
// refused by name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

class Tokenizer final {
 public:
  /// Reads tokenizer.json, and the ids that begin and end a text from tokenizer_config.json,
  /// generation_config.json or config.json. Throws ConfigError naming the file and what is wrong.
  [[nodiscard]] static Tokenizer load(const std::filesystem::path& model_folder);
  /// From the text of a tokenizer.json; `name` opens messages. bos and eos stay unset.
  [[nodiscard]] static Tokenizer from_json(std::string_view text, const std::string& name);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Ids of `text`; added and special tokens in it become their ids. Ill-formed UTF-8 is read as
  /// U+FFFD. Thread-safe.
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text) const;
  /// The same between the special tokens that tokenizer.json's post-processor puts around a text:
  /// what tokenizers.encode(text) gives. Chat templates write theirs themselves.
  [[nodiscard]] std::vector<int32_t> encode_whole(std::string_view text) const;
  /// The ids that the post-processor puts before a text.
  [[nodiscard]] const std::vector<int32_t>& opening() const;
  /// Like encode, and for each id the offset in `text` behind its last byte. Requires
  /// normalize(text)
  /// == text. What looks like a special token and has one of the sorted offsets `plain` inside
  /// stays text.
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text, std::vector<int64_t>& ends,
                                            std::span<const size_t> plain = {}) const;
  /// Ids of `text` where nothing is a special token: "<|im_end|>" becomes the ids of its letters.
  [[nodiscard]] std::vector<int32_t> encode_ordinary(std::string_view text) const;
  /// Encodes many texts on `threads` threads, in order.
  [[nodiscard]] std::vector<std::vector<int32_t>> encode_batch(
      const std::vector<std::string_view>& texts, int threads) const;

  /// The Unicode normal form that the tokenizer reads, with ill-formed UTF-8 replaced.
  [[nodiscard]] std::string normalize(std::string_view text) const;

  /// Text of the ids; bytes that are not UTF-8 become U+FFFD, unknown ids nothing, as in
  /// tokenizers.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids,
                                   bool skip_special_tokens = false) const;
  /// The bytes behind one id ("" for an unknown one); for a model of characters as tokenizer.json
  /// spells it.
  [[nodiscard]] std::string_view token_bytes(int32_t id) const;

  /// Highest id + 1.
  [[nodiscard]] int64_t vocab_size() const;
  /// Id of a token as tokenizer.json spells it.
  [[nodiscard]] std::optional<int32_t> token_id(std::string_view token) const;
  [[nodiscard]] bool is_special(int32_t id) const;
  [[nodiscard]] std::vector<std::string> special_tokens() const;
  [[nodiscard]] std::optional<int32_t> bos_id() const;
  [[nodiscard]] std::optional<int32_t> eos_id() const;
  /// eos_id and the further ids that generation_config.json or config.json end a text with.
  [[nodiscard]] const std::vector<int32_t>& stop_ids() const;
  /// Hash of everything that decides the ids.
  [[nodiscard]] const std::string& hash() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::data
