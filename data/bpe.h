// Byte-pair merges of one word: tokenizer.json's "model" of type BPE over bytes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tessera::data {

/// Per-thread working memory: recent words with their ids, and the merge buffers.
class BpeScratch final {
 public:
  BpeScratch();

 private:
  friend class Bpe;
  static constexpr size_t kSlots = 1 << 15;
  static constexpr size_t kMaxBytes = 31;
  static constexpr size_t kMaxIds = 7;
  struct alignas(64) Slot {     // one cache line
    std::array<char, 32> word;  // zero-padded; the last byte is the length, 0 = empty
    std::array<int32_t, kMaxIds> ids;
    int32_t num_ids;
  };
  struct Merge {
    uint32_t rank;
    int32_t position;
    int32_t left, right, id;
    bool operator>(const Merge& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  struct Symbol {
    int32_t id;
    int32_t previous, next;
  };
  std::vector<Slot> slots_;
  std::vector<int32_t> ids_;
  std::vector<uint64_t> ranks_;
  std::vector<Symbol> symbols_;
  std::vector<Merge> heap_;
};

class Bpe final {
 public:
  /// The symbols that a word's merges begin with: its bytes or its characters.
  struct Symbols {
    bool by_character = false;
    /// The id of each byte, or -1. By character: of those that stand for a character without an id
    /// (byte fallback).
    std::array<int32_t, 256> bytes;
    std::unordered_map<uint32_t, int32_t> characters;  // code point -> id
    int32_t unknown_id = -1;     // for what has no id; -1: it is dropped, as in tokenizers
    bool fuse_unknown = false;   // a run of unknown symbols is one
    bool ignore_merges = false;  // a word that is a token stays whole
    std::unordered_map<std::string, int32_t> words;  // word -> id, used with ignore_merges
  };
  Bpe() { symbols_.bytes.fill(-1); }
  explicit Bpe(Symbols symbols) : symbols_(std::move(symbols)) {}

  [[nodiscard]] bool by_character() const { return symbols_.by_character; }
  [[nodiscard]] int32_t unknown_id() const { return symbols_.unknown_id; }
  /// Bytes of `text` that one unknown id at its front stands for.
  [[nodiscard]] size_t unknown_length(std::string_view text) const;

  /// (left, right) -> id with priority `rank` (lower first). A repeated pair takes the later rank,
  /// as in tokenizers.
  void add_merge(int32_t left, int32_t right, uint32_t rank, int32_t id);
  void reserve_merges(size_t count);

  /// Appends the word's ids. Time is n log n in the worst case.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const;

 private:
  struct Entry {
    uint64_t pair = kEmpty;
    uint32_t rank = 0;
    int32_t id = -1;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  [[nodiscard]] const Entry* find(int32_t left, int32_t right) const;
  [[nodiscard]] uint64_t rank_of(int32_t left, int32_t right) const;
  void merge_word(std::string_view word, BpeScratch& scratch) const;
  void merge_short(BpeScratch& scratch) const;
  void merge_long(BpeScratch& scratch) const;
  void rehash(size_t capacity);
  void first_symbols(std::string_view word, std::vector<int32_t>& ids) const;
  [[nodiscard]] bool has_bytes(std::string_view text) const;

  Symbols symbols_;
  std::vector<Entry> table_;
  size_t num_merges_ = 0;
  int shift_ = 64;
};

}  // namespace tessera::data
