// `tessera inspect data`: rows as text, with the trained tokens marked.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>

#include "data/dataset.h"
#include "data/tokenizer.h"

namespace tessera::data {

struct InspectOptions {
  int64_t first_row = 0;
  int64_t num_rows = 3;
  bool color = false;  // ANSI colour; otherwise trained tokens stand in [[...]]
};

/// A row's documents as text. Runs of trained tokens are marked; control characters other than
/// newlines are escaped.
[[nodiscard]] std::string describe_row(const Row& row, const Tokenizer& tokenizer, bool color);

/// Prints counts (documents, rows, fill, trained tokens), then rows in order with the file:line of
/// their documents.
void inspect_dataset(const Dataset& dataset, const DataConfig& config, const Tokenizer& tokenizer,
                     const InspectOptions& options, std::ostream& out);

}  // namespace tessera::data
