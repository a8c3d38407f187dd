#include "data/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

#include "core/error.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {

using Pair = uint64_t;  // left id << 32 | right id

Pair pair_of(int32_t left, int32_t right) {
  return static_cast<Pair>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Word {
  std::vector<int32_t> ids;
  int64_t count;
};

/// A pair that may be merged next, and the words that it was seen in.
struct Candidate {
  int64_t count;
  Pair pair;
  std::vector<uint32_t> words;
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

class Trainer {
 public:
  Trainer(const WordCounts& counts, const BpeTrainerOptions& options) : options_(options) {
    for (const std::string& token : options.special_tokens) {
      if (ids_.contains(token))
        throw ConfigError("the special token \"" + token + "\" is given twice");
      (void)id_of(token);
    }
    const std::array<int32_t, 256> bytes = add_bytes();
    if (options.vocab_size < static_cast<int64_t>(out_.tokens.size())) {
      throw ConfigError(detail::concat("a vocabulary of ", options.vocab_size, " has no room for ",
                                       options.special_tokens.size(),
                                       " special tokens and 256 bytes; set --vocab to more than ",
                                       out_.tokens.size()));
    }
    add_words(counts, bytes);
    count_pairs();
  }

  TrainedBpe run() {
    while (static_cast<int64_t>(out_.tokens.size()) < options_.vocab_size && !heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      Candidate best = std::move(heap_.back());
      heap_.pop_back();
      const int64_t count = counts_[best.pair];
      if (best.count != count) {  // other merges took some of its occurrences
        best.count = count;
        push(std::move(best));
        continue;
      }
      if (count < std::max<int64_t>(1, options_.min_frequency)) break;
      merge(best);
    }
    return std::move(out_);
  }

 private:
  int32_t id_of(const std::string& token) {
    const auto [found, is_new] = ids_.try_emplace(token, static_cast<int32_t>(out_.tokens.size()));
    if (is_new) out_.tokens.push_back(token);
    return found->second;
  }

  // In the order of GPT-2's characters for them: printable ones first.
  std::array<int32_t, 256> add_bytes() {
    std::array<int32_t, 256> ids{};
    const auto printable = [](int b) {
      return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
    };
    for (const bool wanted : {true, false}) {
      uint32_t next = 256;
      for (int b = 0; b < 256; ++b) {
        if (printable(b) != wanted) continue;
        std::string spelled;
        append_utf8(wanted ? static_cast<uint32_t>(b) : next++, spelled);
        ids[static_cast<size_t>(b)] = id_of(spelled);
      }
    }
    return ids;
  }

  void add_words(const WordCounts& counts, const std::array<int32_t, 256>& bytes) {
    words_.reserve(counts.size());
    for (const auto& [text, count] : counts) {
      Word word{{}, count};
      word.ids.reserve(text.size());
      for (const char c : text) word.ids.push_back(bytes[static_cast<unsigned char>(c)]);
      if (word.ids.size() > 1) words_.push_back(std::move(word));
    }
    if (words_.size() > UINT32_MAX)
      throw ConfigError("the corpus has more than 4 billion different words");
  }

  void count_pairs() {
    for (size_t w = 0; w < words_.size(); ++w) {
      const Word& word = words_[w];
      for (size_t i = 0; i + 1 < word.ids.size(); ++i)
        note(pair_of(word.ids[i], word.ids[i + 1]), word.count, w);
    }
    queue_new();
  }

  // The pair occurs `count` times more, in this word.
  void note(Pair pair, int64_t count, size_t word) {
    counts_[pair] += count;
    auto& words = new_[pair];
    if (words.empty() || words.back() != word) words.push_back(static_cast<uint32_t>(word));
  }

  void queue_new() {
    for (auto& [pair, words] : new_)
      if (const int64_t count = counts_[pair]; count > 0) push({count, pair, std::move(words)});
    new_.clear();
  }

  void push(Candidate candidate) {
    heap_.push_back(std::move(candidate));
    std::push_heap(heap_.begin(), heap_.end());
  }

  void merge(const Candidate& best) {
    const auto left = static_cast<int32_t>(best.pair >> 32),
               right = static_cast<int32_t>(best.pair & UINT32_MAX);
    const int32_t id =
        id_of(out_.tokens[static_cast<size_t>(left)] + out_.tokens[static_cast<size_t>(right)]);
    out_.merges.emplace_back(left, right);
    for (const uint32_t word : best.words) merge_in(word, left, right, id);
    queue_new();
  }

  // From left to right; the pairs around each merge change. The count of the merged pair itself is
  // left alone: it is not looked at again.
  void merge_in(uint32_t index, int32_t left, int32_t right, int32_t id) {
    Word& word = words_[index];
    auto& ids = word.ids;
    size_t kept = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] != left || i + 1 == ids.size() || ids[i + 1] != right) {
        ids[kept++] = ids[i];
        continue;
      }
      if (kept > 0) {
        counts_[pair_of(ids[kept - 1], left)] -= word.count;
        note(pair_of(ids[kept - 1], id), word.count, index);
      }
      if (i + 2 < ids.size()) {
        counts_[pair_of(right, ids[i + 2])] -= word.count;
        note(pair_of(id, ids[i + 2]), word.count, index);
      }
      ids[kept++] = id;
      ++i;
    }
    ids.resize(kept);
  }

  const BpeTrainerOptions& options_;
  TrainedBpe out_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<Word> words_;
  std::unordered_map<Pair, int64_t> counts_;
  std::unordered_map<Pair, std::vector<uint32_t>>
      new_;  // pairs that occur in words where they did not before
  std::vector<Candidate> heap_;
};

}  // namespace

WordCounts count_words(const std::vector<std::string_view>& texts,
                       const PreTokenizer& pre_tokenizer, int threads) {
  std::vector<WordCounts> parts(static_cast<size_t>(std::max(1, threads)));
  std::atomic<size_t> next{0};
  const auto work = [&](WordCounts& counts) {
    PreTokenizerScratch scratch;
    std::string word;
    for (size_t i = next++; i < texts.size(); i = next++) {
      pre_tokenizer.split(texts[i], scratch);
      for (const Piece& piece : scratch.pieces) {
        word.assign(texts[i].substr(piece.begin, piece.end - piece.begin));
        ++counts[word];
      }
    }
  };
  {
    std::vector<std::jthread> pool;
    for (size_t i = 1; i < parts.size(); ++i) pool.emplace_back([&, i] { work(parts[i]); });
    work(parts[0]);
  }
  for (size_t i = 1; i < parts.size(); ++i)
    for (const auto& [word, count] : parts[i]) parts[0][word] += count;
  return std::move(parts[0]);
}

TrainedBpe train_bpe(const WordCounts& words, const BpeTrainerOptions& options) {
  return Trainer(words, options).run();
}

}  // namespace tessera::data
