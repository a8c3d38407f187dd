// A tiny byte-level tokenizer and a chat template, made in the test.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "data/chat_template.h"
#include "data/tokenizer.h"

namespace tessera::data::test {

/// A folder that goes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tessera_data.XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

/// GPT-2's character for a byte.
inline std::string byte_char(int byte) {
  const auto printable = [](int b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD); };
  int c = byte;
  if (!printable(byte)) {
    c = 256;
    for (int b = 0; b < byte; ++b) c += !printable(b);
  }
  std::string out;
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  out += static_cast<char>(0xC0 | c >> 6);
  out += static_cast<char>(0x80 | (c & 0x3F));
  return out;
}

/// Ids 0-255: the bytes. 256: "he", 257: "ll", 258: "hell", 259: "hello", 260: " hello", 261: "12".
/// 262: <|end|>, 263: <|user|>, 264: <|bot|>, special.
inline nlohmann::json tiny_tokenizer_json() {
  nlohmann::json vocab;
  for (int b = 0; b < 256; ++b) vocab[byte_char(b)] = b;
  const std::string space = byte_char(' ');
  vocab["he"] = 256;
  vocab["ll"] = 257;
  vocab["hell"] = 258;
  vocab["hello"] = 259;
  vocab[space + "hello"] = 260;
  vocab["12"] = 261;
  nlohmann::json json;
  json["added_tokens"] = nlohmann::json::array();
  int id = 262;
  for (const char* content : {"<|end|>", "<|user|>", "<|bot|>"}) {
    json["added_tokens"].push_back({{"id", id++},
                                    {"content", content},
                                    {"special", true},
                                    {"normalized", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"single_word", false}});
  }
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  json["decoder"] = {{"type", "ByteLevel"}};
  json["model"] = {{"type", "BPE"},
                   {"vocab", vocab},
                   {"merges", {"h e", "l l", "he ll", "hell o", space + " hello", "1 2"}}};
  return json;
}

inline constexpr const char* kTinyTemplate =
    "{% for m in messages %}{{ '<|' + ('bot' if m.role == 'assistant' else 'user') + '|>' + "
    "m.content + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}";
inline constexpr int32_t kEnd = 262, kUser = 263, kBot = 264, kHello = 259, kSpaceHello = 260;

/// A model folder with tokenizer.json, tokenizer_config.json and chat_template.jinja.
inline void write_model_folder(const TemporaryFolder& folder) {
  folder.write("tokenizer.json", tiny_tokenizer_json().dump());
  folder.write("tokenizer_config.json", R"({"eos_token": "<|end|>"})");
  folder.write("chat_template.jinja", kTinyTemplate);
}

/// The message of the ConfigError that `call` throws, or "".
template <typename Call>
std::string config_error(const Call& call) {
  try {
    call();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace tessera::data::test
