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
#include "data/normalizer.h"
#include "data/pre_tokenizer.h"
#include "data/tokenizer.h"

namespace tessera::data {

struct Tokenizer::Impl {
  struct Scratch {
    PreTokenizerScratch pre;
    BpeScratch bpe;
    std::vector<AddedTokenMatcher::Part> raw_parts, parts;
    std::string prefixed;
  };

  std::string name;
  std::unordered_map<std::string, int32_t> ids;  // as tokenizer.json spells the tokens
  std::string bytes;                             // of all tokens, end to end
  std::vector<uint32_t> byte_offsets;            // [vocab + 1]
  std::vector<uint8_t> special;                  // [vocab]
  Normalizer normalizer;
  std::optional<PreTokenizer> pre_tokenizer;
  AddedTokenMatcher raw_added, normalized_added;
  Bpe bpe;
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
              std::vector<int64_t>* ends) const;
  void encode_words(std::string_view text, size_t offset, Scratch& scratch,
                    std::vector<int32_t>& out, std::vector<int64_t>* ends) const;

  /// Fills everything but bos, eos and stops from a tokenizer.json and further added tokens of
  /// tokenizer_config.json.
  void read(std::string_view text, const std::vector<AddedToken>& more);
};

}  // namespace tessera::data
