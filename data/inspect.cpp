#include "data/inspect.h"

#include <algorithm>
#include <cstdio>

#include "data/unicode.h"

namespace tessera::data {

namespace {
constexpr const char* kColorOn = "\033[1;32m";
constexpr const char* kColorOff = "\033[0m";

std::string visible(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\x%02x", byte);
      out += escape;
    } else {
      out += c;
    }
  }
  return out;
}

std::string percent(int64_t part, int64_t whole) {
  char text[16];
  std::snprintf(text, sizeof text, "%.1f %%",
                whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0);
  return text;
}
}  // namespace

std::string describe_row(const Row& row, const Tokenizer& tokenizer, bool color) {
  std::string out;
  for (const Segment& segment : row.segments) {
    const auto begin = static_cast<size_t>(segment.start),
               end = static_cast<size_t>(segment.start + segment.length);
    for (size_t i = begin; i < end;) {
      size_t run = i;
      while (run < end && row.loss_mask[run] == row.loss_mask[i]) ++run;
      const std::string text = visible(tokenizer.decode({row.tokens.data() + i, run - i}));
      const bool trained = row.loss_mask[i] != 0;
      out += !trained ? text : color ? kColorOn + text + kColorOff : "[[" + text + "]]";
      i = run;
    }
    out += '\n';
  }
  return out;
}

void inspect_dataset(const Dataset& dataset, const DataConfig& config, const Tokenizer& tokenizer,
                     const InspectOptions& options, std::ostream& out) {
  const DatasetStats stats = dataset.stats();
  out << "documents        " << stats.documents;
  if (stats.skipped > 0) out << " (" << stats.skipped << " skipped: too long)";
  if (stats.shortened > 0) out << " (" << stats.shortened << " cut: too long)";
  out << "\nrows             " << stats.rows << " of up to " << config.sequence_length
      << " tokens, " << (config.packing ? "packed" : "one document each") << "\nfill             "
      << percent(stats.tokens, stats.rows * config.sequence_length) << "\ntokens           "
      << stats.tokens << "\ntrained tokens   " << stats.targets << " ("
      << percent(stats.targets, stats.tokens) << ")\n";
  const int64_t end = std::min(dataset.num_rows(), options.first_row + options.num_rows);
  for (int64_t i = std::max<int64_t>(0, options.first_row); i < end; ++i) {
    const Row row = dataset.row_in_order(i);
    out << "\n--- row " << i << ": " << row.tokens.size() << " tokens, "
        << std::count(row.loss_mask.begin(), row.loss_mask.end(), 1) << " trained, from";
    for (const std::string& origin : dataset.origins(i)) out << ' ' << origin;
    out << '\n' << describe_row(row, tokenizer, options.color);
  }
}

}  // namespace tessera::data
