// The rows of a run: sources -> token stores -> documents -> rows (packed or not) -> a stateless
// shuffled order.
//
// row(i) depends on the seed and i only, so that resuming needs one integer and every layout sees
// the same rows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/chat_template.h"
#include "data/prepare.h"
#include "data/tokenizer.h"

namespace tessera::data {

struct SourceConfig {
  std::string path;     // .jsonl, .txt, a folder of those (searched to the bottom), or a token store .h5
  double weight = 1.0;  // share of the rows
};

struct DataConfig {
  std::vector<SourceConfig> train, validation;
  int64_t sequence_length = 512;
  bool packing = true;
  std::string overlong =
      "error";  // error | split | skip | truncate: what to do with a longer document

  /// Throws ConfigError naming the key under `data`.
  void validate() const;
};

struct DatasetStats {
  int64_t documents = 0;  // in the sources
  int64_t skipped = 0;    // overlong: skip
  int64_t shortened = 0;  // overlong: truncate or split
  int64_t rows = 0, segments = 0, tokens = 0, targets = 0;
};

class Dataset final {
 public:
  /// Opens or prepares the stores (collective over `share`), cuts overlong documents, packs. Throws
  /// ConfigError: a bad line, an overlong document under "error", a truncation that leaves no
  /// trained token, a store made with another tokenizer, no rows at all.
  Dataset(const std::vector<SourceConfig>& sources, const DataConfig& config,
          const Tokenizer& tokenizer, const ChatTemplate* chat_template, uint64_t seed,
          const std::filesystem::path& cache_folder, const Share& share, bool show_progress);
  ~Dataset();
  Dataset(Dataset&&) noexcept;
  Dataset& operator=(Dataset&&) noexcept;

  /// Rows of one pass over all sources.
  [[nodiscard]] int64_t num_rows() const;
  /// Tokens of those rows.
  [[nodiscard]] int64_t num_tokens() const;
  /// Row `index` >= 0 of the endless shuffled mixture: each source is permuted anew every pass over
  /// it. Thread-safe.
  [[nodiscard]] Row row(int64_t index) const;
  /// Row `index` of [0, num_rows()): the sources one after the other, unshuffled.
  [[nodiscard]] Row row_in_order(int64_t index) const;
  /// "file:line" of the documents of row_in_order(index).
  [[nodiscard]] std::vector<std::string> origins(int64_t index) const;
  /// Counts; reads all loss masks.
  [[nodiscard]] DatasetStats stats() const;
  /// Of everything that decides row(): contents, tokenizer, options, weights, seed.
  [[nodiscard]] const std::string& hash() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::data
