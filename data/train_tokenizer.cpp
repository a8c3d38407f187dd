#include "data/train_tokenizer.h"

#include "core/error.h"
#include "core/file.h"
#include "data/bpe_trainer.h"
#include "data/json.h"
#include "data/prepare.h"
#include "data/scanners.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {
using nlohmann::json;
constexpr size_t kBlock = 1 << 20;

json split_at(std::string_view pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", std::string(pattern)}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

json pre_tokenizer_of(const std::string& pattern) {
  if (pattern == "gpt2") return byte_level(true);
  json steps = json::array();
  if (pattern == "llama3") {
    steps.push_back(split_at(kLlama3Pattern));
  } else if (pattern == "deepseek") {
    for (const std::string_view step : kDeepSeekPatterns) steps.push_back(split_at(step));
  } else {
    throw ConfigError("--pattern " + pattern + " is not known; use deepseek, llama3 or gpt2");
  }
  steps.push_back(byte_level(false));
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

/// The texts of the inputs; their files stay mapped.
struct Corpus {
  std::vector<MappedFile> files;
  std::vector<std::string> strings;  // of JSONL
  std::vector<std::string_view> texts;
};

// Cuts behind a line break between two printable ASCII characters, where every pattern ends a word.
void add_blocks(std::string_view text, std::vector<std::string_view>& out) {
  const auto printable = [](char c) { return c > ' ' && c < 0x7F; };
  while (text.size() > kBlock) {
    size_t cut = text.find('\n', kBlock);
    while (cut != std::string_view::npos &&
           !(cut + 1 < text.size() && printable(text[cut - 1]) && printable(text[cut + 1])))
      cut = text.find('\n', cut + 1);
    if (cut == std::string_view::npos) break;
    out.push_back(text.substr(0, cut + 1));
    text.remove_prefix(cut + 1);
  }
  out.push_back(text);
}

void add_strings(const Json& line, std::vector<std::string>& out) {
  for (const char* key : {"text", "prompt", "completion", "content"})
    if (line.is_object() && line.contains(key) && line[key].is_string())
      out.push_back(line[key].get<std::string>());
  if (line.is_object() && line.contains("messages") && line["messages"].is_array())
    for (const Json& message : line["messages"]) add_strings(message, out);
}

void add_lines(std::string_view text, const std::string& name, std::vector<std::string>& out) {
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t length = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, length);
    if (line.find_first_not_of(" \t\r\n") != std::string_view::npos)
      add_strings(parse_json(line, name + ":" + std::to_string(number)), out);
    text.remove_prefix(length);
  }
}

Corpus open_corpus(const std::vector<std::string>& inputs) {
  Corpus corpus;
  for (const std::string& input : inputs) {
    for (const std::string& name : list_source_files(input)) {
      corpus.files.emplace_back(name);
      const std::string_view text = corpus.files.back().bytes();
      if (name.ends_with(".jsonl")) {
        add_lines(text, name, corpus.strings);
      } else if (!is_valid_utf8(text)) {
        throw ConfigError(name + ": not UTF-8; convert it (iconv -f latin1 -t utf-8)");
      } else {
        add_blocks(text, corpus.texts);
      }
    }
  }
  corpus.texts.insert(corpus.texts.end(), corpus.strings.begin(), corpus.strings.end());
  return corpus;
}

std::vector<std::string> special_tokens(const TrainTokenizerOptions& options) {
  std::vector<std::string> out;
  for (const std::string& token : {options.bos, options.eos, options.pad})
    if (!token.empty()) out.push_back(token);
  out.insert(out.end(), options.special_tokens.begin(), options.special_tokens.end());
  for (const std::string& token : out)
    if (token.empty() || !is_valid_utf8(token))
      throw ConfigError("a special token is empty or not UTF-8");
  return out;
}

json tokenizer_json(const TrainedBpe& bpe, const std::vector<std::string>& special,
                    const json& pre_tokenizer) {
  json added = json::array(), vocab = json::object(), merges = json::array();
  for (size_t id = 0; id < special.size(); ++id) {
    added.push_back({{"id", id},
                     {"content", special[id]},
                     {"special", true},
                     {"normalized", false},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false}});
  }
  for (size_t id = 0; id < bpe.tokens.size(); ++id) vocab[bpe.tokens[id]] = id;
  for (const auto& [left, right] : bpe.merges)
    merges.push_back(
        {bpe.tokens[static_cast<size_t>(left)], bpe.tokens[static_cast<size_t>(right)]});
  const json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"ignore_merges", false},
                      {"vocab", vocab},
                      {"merges", merges}};
  return {
      {"version", "1.0"},          {"truncation", nullptr},       {"padding", nullptr},
      {"added_tokens", added},     {"normalizer", nullptr},       {"pre_tokenizer", pre_tokenizer},
      {"post_processor", nullptr}, {"decoder", byte_level(true)}, {"model", model}};
}

json config_json(const TrainTokenizerOptions& options) {
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false}};
  if (!options.bos.empty()) config["bos_token"] = options.bos;
  if (!options.eos.empty()) config["eos_token"] = options.eos;
  if (!options.pad.empty()) config["pad_token"] = options.pad;
  return config;
}
}  // namespace

TrainTokenizerStats train_tokenizer(const TrainTokenizerOptions& options) {
  const json spec = pre_tokenizer_of(options.pattern);
  const PreTokenizer pre_tokenizer(spec, "--pattern");
  const std::vector<std::string> special = special_tokens(options);
  const Corpus corpus = open_corpus(options.inputs);
  const WordCounts counts = count_words(corpus.texts, pre_tokenizer, options.threads);
  if (counts.empty()) throw ConfigError("the input holds no text");
  const TrainedBpe bpe = train_bpe(counts, {.vocab_size = options.vocab_size,
                                            .min_frequency = options.min_frequency,
                                            .special_tokens = special});
  std::filesystem::create_directories(options.output);
  write_file_atomically(options.output / "tokenizer.json",
                        tokenizer_json(bpe, special, spec).dump(1) + "\n");
  write_file_atomically(options.output / "tokenizer_config.json",
                        config_json(options).dump(2) + "\n");
  TrainTokenizerStats stats{0, 0, static_cast<int64_t>(counts.size()),
                            static_cast<int64_t>(bpe.tokens.size())};
  for (const std::string_view text : corpus.texts) stats.bytes += static_cast<int64_t>(text.size());
  for (const auto& [word, count] : counts) stats.words += count;
  return stats;
}

}  // namespace tessera::data
