#include "data/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <utility>

#include "core/error.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {
constexpr size_t kShortWord = 48;  // up to here a scan for the best pair beats a heap
constexpr uint64_t kNoRank = ~uint64_t{0};

inline uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}
inline uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15ull;
  return x ^ x >> 29;
}
}  // namespace

BpeScratch::BpeScratch() : slots_(kSlots) {
  for (Slot& slot : slots_) slot.word.back() = 0;
}

void Bpe::rehash(size_t capacity) {
  std::vector<Entry> old(capacity);
  old.swap(table_);
  shift_ = 64 - std::countr_zero(capacity);
  for (const Entry& entry : old) {
    if (entry.pair == kEmpty) continue;
    size_t i = mix(entry.pair) * 0x9E3779B97F4A7C15ull >> shift_;
    while (table_[i].pair != kEmpty) i = (i + 1) & (capacity - 1);
    table_[i] = entry;
  }
}

void Bpe::reserve_merges(size_t count) {
  rehash(std::bit_ceil(std::max<size_t>(16, count * 2 + 1)));
}

void Bpe::add_merge(int32_t left, int32_t right, uint32_t rank, int32_t id) {
  if (table_.size() < 2 * (num_merges_ + 1)) reserve_merges(num_merges_ * 2 + 1);
  const uint64_t pair = pair_of(left, right);
  size_t i = mix(pair) * 0x9E3779B97F4A7C15ull >> shift_;
  while (table_[i].pair != kEmpty && table_[i].pair != pair) i = (i + 1) & (table_.size() - 1);
  num_merges_ += table_[i].pair == kEmpty;
  table_[i] = {pair, rank, id};
}

const Bpe::Entry* Bpe::find(int32_t left, int32_t right) const {
  if (table_.empty()) return nullptr;
  const uint64_t pair = pair_of(left, right);
  size_t i = mix(pair) * 0x9E3779B97F4A7C15ull >> shift_;
  while (true) {
    const Entry& entry = table_[i];
    if (entry.pair == pair) return &entry;
    if (entry.pair == kEmpty) return nullptr;
    i = (i + 1) & (table_.size() - 1);
  }
}

// Rank above, id below: comparing two of them compares ranks.
uint64_t Bpe::rank_of(int32_t left, int32_t right) const {
  const Entry* entry = find(left, right);
  return entry == nullptr
             ? kNoRank
             : static_cast<uint64_t>(entry->rank) << 32 | static_cast<uint32_t>(entry->id);
}

void Bpe::merge_short(BpeScratch& scratch) const {
  auto& ids = scratch.ids_;
  auto& ranks = scratch.ranks_;
  size_t count = ids.size();
  ranks.resize(count);
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = rank_of(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (ranks[i] >> 32 < ranks[best] >> 32) best = i;
    }
    if (ranks[best] == kNoRank) break;
    ids[best] = static_cast<int32_t>(static_cast<uint32_t>(ranks[best]));
    const size_t tail = count - best - 2;
    std::memmove(ids.data() + best + 1, ids.data() + best + 2, tail * sizeof(int32_t));
    if (tail > 0)
      std::memmove(ranks.data() + best + 1, ranks.data() + best + 2, (tail - 1) * sizeof(uint64_t));
    --count;
    if (best > 0) ranks[best - 1] = rank_of(ids[best - 1], ids[best]);
    if (best + 1 < count) ranks[best] = rank_of(ids[best], ids[best + 1]);
  }
  ids.resize(count);
}

void Bpe::merge_long(BpeScratch& scratch) const {
  auto& ids = scratch.ids_;
  auto& symbols = scratch.symbols_;
  auto& heap = scratch.heap_;
  const auto count = static_cast<int32_t>(ids.size());
  symbols.resize(ids.size());
  heap.clear();
  const auto consider = [&](int32_t at) {
    const int32_t next = symbols[static_cast<size_t>(at)].next;
    if (next < 0) return;
    const int32_t left = symbols[static_cast<size_t>(at)].id,
                  right = symbols[static_cast<size_t>(next)].id;
    if (const Entry* entry = find(left, right)) {
      heap.push_back({entry->rank, at, left, right, entry->id});
    }
  };
  for (int32_t i = 0; i < count; ++i) {
    symbols[static_cast<size_t>(i)] = {ids[static_cast<size_t>(i)], i - 1,
                                       i + 1 < count ? i + 1 : -1};
  }
  for (int32_t i = 0; i < count; ++i) consider(i);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const BpeScratch::Merge top = heap.back();
    heap.pop_back();
    auto& left = symbols[static_cast<size_t>(top.position)];
    if (left.id != top.left || left.next < 0 ||
        symbols[static_cast<size_t>(left.next)].id != top.right)
      continue;
    const int32_t dead = left.next;
    left.id = top.id;
    left.next = symbols[static_cast<size_t>(dead)].next;
    symbols[static_cast<size_t>(dead)].id = -2;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = top.position;
    for (const int32_t at : {left.previous, top.position}) {
      if (at < 0) continue;
      const size_t before = heap.size();
      consider(at);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  ids.clear();
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
    ids.push_back(symbols[static_cast<size_t>(i)].id);
}

bool Bpe::has_bytes(std::string_view text) const {
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return symbols_.bytes[static_cast<unsigned char>(c)] >= 0; });
}

size_t Bpe::unknown_length(std::string_view text) const {
  size_t at = 0;
  do {
    const size_t length = symbols_.by_character ? decode_utf8(text.data() + at).length : 1;
    const bool known = symbols_.by_character
                           ? symbols_.characters.contains(decode_utf8(text.data() + at).value)
                           : false;
    if (at > 0 && (known || has_bytes(text.substr(at, length)))) break;
    at += length;
  } while (symbols_.fuse_unknown && at < text.size());
  return std::min(at, text.size());
}

// An unknown symbol waits for the next known one, since it may be fused with others; symbols made
// of bytes do not end the wait (as in tokenizers).
void Bpe::first_symbols(std::string_view word, std::vector<int32_t>& ids) const {
  bool waiting = false;
  const auto push = [&](int32_t id) {
    if (std::exchange(waiting, false)) ids.push_back(symbols_.unknown_id);
    ids.push_back(id);
  };
  for (size_t i = 0; i < word.size();) {
    size_t length = 1;
    int32_t id = -1;
    if (symbols_.by_character) {
      const CodePoint c = decode_utf8(word.data() + i);
      const auto found = symbols_.characters.find(c.value);
      if (found != symbols_.characters.end()) id = found->second;
      length = c.length;
    } else {
      id = symbols_.bytes[static_cast<unsigned char>(word[i])];
    }
    const std::string_view symbol = word.substr(i, length);
    i += length;
    if (id >= 0) {
      push(id);
    } else if (symbols_.by_character && has_bytes(symbol)) {
      for (const char byte : symbol)
        ids.push_back(symbols_.bytes[static_cast<unsigned char>(byte)]);
    } else if (symbols_.unknown_id >= 0) {
      if (waiting && !symbols_.fuse_unknown) ids.push_back(symbols_.unknown_id);
      waiting = true;
    }
  }
  if (waiting) ids.push_back(symbols_.unknown_id);
}

void Bpe::merge_word(std::string_view word, BpeScratch& scratch) const {
  auto& ids = scratch.ids_;
  ids.clear();
  if (symbols_.ignore_merges) {
    if (const auto whole = symbols_.words.find(std::string(word)); whole != symbols_.words.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  first_symbols(word, ids);
  if (ids.size() < 2) return;
  ids.size() <= kShortWord ? merge_short(scratch) : merge_long(scratch);
}

void Bpe::encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const {
  if (word.size() > BpeScratch::kMaxBytes) {
    merge_word(word, scratch);
    out.insert(out.end(), scratch.ids_.begin(), scratch.ids_.end());
    return;
  }
  std::array<char, 32> key{};
  std::memcpy(key.data(), word.data(), word.size());
  key.back() = static_cast<char>(word.size());
  std::array<uint64_t, 4> parts;
  std::memcpy(parts.data(), key.data(), sizeof parts);
  const uint64_t hash =
      mix(mix(mix(mix(parts[0]) + parts[1]) + parts[2]) + parts[3]) * 0x9E3779B97F4A7C15ull;
  BpeScratch::Slot& slot = scratch.slots_[hash >> (64 - std::countr_zero(BpeScratch::kSlots))];
  if (std::memcmp(slot.word.data(), key.data(), sizeof key) == 0) {
    out.insert(out.end(), slot.ids.begin(), slot.ids.begin() + slot.num_ids);
    return;
  }
  merge_word(word, scratch);
  out.insert(out.end(), scratch.ids_.begin(), scratch.ids_.end());
  if (scratch.ids_.size() <= BpeScratch::kMaxIds) {
    slot.word = key;
    std::copy(scratch.ids_.begin(), scratch.ids_.end(), slot.ids.begin());
    slot.num_ids = static_cast<int32_t>(scratch.ids_.size());
  }
}

}  // namespace tessera::data
