// Inside of Tokenizer, shared by its encoder (tokenizer.cpp) and its reader (tokenizer_json.cpp).
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/decoder.h"
#include "data/normalizer.h"
#include "data/post_processor.h"
#include "data/pre_tokenizer.h"
#include "data/tokenizer.h"

namespace tessera::data {

struct Tokenizer::Impl {
  struct Scratch {
    PreTokenizerScratch pre;
    BpeScratch bpe;
    std::vector<AddedTokenMatcher::Part> raw_parts, parts;
    std::string prepared;
    Alignment rewritten, split;
  };
  /// A part of the text on its way to ids: byte i of it stands for byte offset + alignment[begin +
  /// i] of the text.
  struct Body {
    std::string_view text;
    size_t offset, begin;
    const Alignment* alignment;  // null: not rewritten
    [[nodiscard]] size_t origin(size_t i) const {
      return offset + (alignment == nullptr ? begin + i : (*alignment)[begin + i]);
    }
  };

  std::string name;
  std::unordered_map<std::string, int32_t> ids;  // as tokenizer.json spells the tokens
  std::string bytes;                   // of all tokens, end to end; as spelled when not byte-level
  std::vector<uint32_t> byte_offsets;  // [vocab + 1]
  std::vector<uint8_t> special;        // [vocab]
  Normalizer normalizer;
  std::optional<PreTokenizer> pre_tokenizer;
  AddedTokenMatcher raw_added, normalized_added;
  Bpe bpe;
  Decoder decoder;  // of models of characters
  Affixes affixes;
  std::optional<int32_t> bos, eos;
  std::vector<int32_t> stops;
  std::string hash;

  mutable std::mutex pool_mutex;
  mutable std::vector<std::unique_ptr<Scratch>> pool;  // of calls that are over

  [[nodiscard]] std::string_view bytes_of(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) + 1 >= byte_offsets.size()) return {};
    const auto i = static_cast<size_t>(id);
    return std::string_view(bytes).substr(byte_offsets[i], byte_offsets[i + 1] - byte_offsets[i]);
  }

  [[nodiscard]] std::unique_ptr<Scratch> borrow() const;
  void give_back(std::unique_ptr<Scratch> scratch) const;
  void encode(std::string_view text, bool skip_special, Scratch& scratch, std::vector<int32_t>& out,
              std::vector<int64_t>* ends, std::span<const size_t> plain = {}) const;
  void encode_words(const Body& body, Scratch& scratch, std::vector<int32_t>& out,
                    std::vector<int64_t>* ends) const;
  /// Bytes of a word that `id` at its front stands for.
  [[nodiscard]] size_t length_in(std::string_view word, int32_t id) const;

  /// Fills everything but bos, eos and stops from a tokenizer.json and further added tokens of
  /// tokenizer_config.json.
  void read(std::string_view text, const std::vector<AddedToken>& more);

 private:
  void read_vocabulary(const nlohmann::json& root, const std::vector<AddedToken>& more);
  void place(const std::string& token, int32_t id);
  void place_added(const std::vector<AddedToken>& added);
  void read_symbols(const nlohmann::json& model);
  void read_merges(const nlohmann::json& model);
  void read_decoder(const nlohmann::json& root);
  std::vector<std::string> spelled_;  // by id, while reading
  std::vector<bool> used_;
};

}  // namespace tessera::data
