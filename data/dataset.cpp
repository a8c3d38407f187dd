#include "data/dataset.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/random.h"
#include "core/text.h"
#include "data/mixture.h"
#include "data/packing.h"

namespace tessera::data {

namespace {
constexpr int64_t kMaxSequenceLength = 1 << 24;
const std::vector<std::string> kOverlong = {"error", "split", "skip", "truncate"};

// A document, or the part of one that makes a segment: tokens [begin, begin + length) of the store.
struct Piece {
  int64_t begin;
  int32_t length;
  int64_t document;
};

struct Source {
  TokenStore store;
  std::vector<Piece> pieces;
  Packing packing;
  int64_t skipped = 0, shortened = 0;
};

bool has_target(const TokenStore& store, int64_t begin, int64_t length) {
  if (length < 2) return false;
  std::vector<uint8_t> mask;
  store.read_mask(begin + 1, length - 1, mask);
  return std::find(mask.begin(), mask.end(), 1) != mask.end();
}

// Applies `overlong` to a document longer than a row.
void cut(Source& source, int64_t document, int64_t begin, int64_t length,
         const DataConfig& config) {
  const int64_t limit = config.sequence_length;
  const auto push = [&](int64_t at, int64_t size) {
    source.pieces.push_back({at, static_cast<int32_t>(size), document});
  };
  if (config.overlong == "skip") {
    ++source.skipped;
  } else if (config.overlong == "split") {
    ++source.shortened;
    for (int64_t done = 0; done < length; done += limit) {
      const int64_t size = std::min(limit, length - done);
      if (has_target(source.store, begin + done, size)) push(begin + done, size);
    }
  } else if (config.overlong == "truncate") {
    if (!has_target(source.store, begin, limit)) {
      throw ConfigError(tessera::detail::concat(
          source.store.origin(document), ": truncating this sample of ", length,
          " tokens to data.sequence_length = ", limit,
          " would remove all trained tokens; raise sequence_length, or set data.overlong to skip"));
    }
    ++source.shortened;
    push(begin, limit);
  } else {
    throw ConfigError(
        tessera::detail::concat(source.store.origin(document), ": this sample has ", length,
                                " tokens, more than data.sequence_length = ", limit,
                                "; raise it, or set data.overlong to split, skip or truncate"));
  }
}

void make_rows(Source& source, const DataConfig& config) {
  const auto& offsets = source.store.offsets();
  for (int64_t d = 0; d < source.store.num_documents(); ++d) {
    const int64_t begin = offsets[static_cast<size_t>(d)];
    const int64_t length = offsets[static_cast<size_t>(d) + 1] - begin;
    if (length <= config.sequence_length) {
      source.pieces.push_back({begin, static_cast<int32_t>(length), d});
    } else {
      cut(source, d, begin, length, config);
    }
  }
  if (source.skipped > 0) {
    log::warn(source.store.path().string(), ": ", source.skipped, " of ",
              source.store.num_documents(), " samples are longer than data.sequence_length = ",
              config.sequence_length, " and skipped");
  }
  if (config.packing) {
    std::vector<int32_t> lengths;
    lengths.reserve(source.pieces.size());
    for (const Piece& piece : source.pieces) lengths.push_back(piece.length);
    source.packing = pack_best_fit(lengths, config.sequence_length);
  } else {
    source.packing = one_per_row(static_cast<int64_t>(source.pieces.size()));
  }
}

TokenStore open_store(const std::string& path, const Tokenizer& tokenizer,
                      const ChatTemplate* chat_template, const std::filesystem::path& cache_folder,
                      const Share& share, bool show_progress) {
  if (std::filesystem::path(path).extension() != ".h5") {
    return TokenStore(cached_store(list_source_files(path), cache_folder, tokenizer, chat_template,
                                   share, show_progress));
  }
  TokenStore store(path);
  if (store.info().tokenizer_hash != tokenizer.hash()) {
    throw ConfigError(path +
                      ": this store was prepared with another tokenizer than the model's; run "
                      "`tessera prepare` with this recipe");
  }
  const std::string& made_with = store.info().template_hash;
  if (!made_with.empty() && chat_template != nullptr && made_with != chat_template->hash()) {
    throw ConfigError(path +
                      ": this store was prepared with another chat template than the model's; run "
                      "`tessera prepare` with this recipe");
  }
  return store;
}
}  // namespace

void DataConfig::validate() const {
  const auto refuse = [](const auto&... parts) {
    throw ConfigError(tessera::detail::concat(parts...));
  };
  if (sequence_length < 2 || sequence_length > kMaxSequenceLength) {
    refuse("data.sequence_length = ", sequence_length, " must lie in [2, ", kMaxSequenceLength,
           "]");
  }
  if (std::find(kOverlong.begin(), kOverlong.end(), overlong) == kOverlong.end()) {
    const std::string near = nearest_name(overlong, kOverlong);
    refuse("data.overlong = ", overlong, " must be one of ", join(kOverlong),
           near.empty() ? "" : "; did you mean " + near + "?");
  }
  for (const auto& [key, list] :
       {std::pair("train", &train), std::pair("validation", &validation)}) {
    for (size_t i = 0; i < list->size(); ++i) {
      if ((*list)[i].path.empty())
        refuse("data.", key, "[", i, "].path is empty; set it to a file or folder");
      if (!std::isfinite((*list)[i].weight) || (*list)[i].weight <= 0) {
        refuse("data.", key, "[", i, "].weight = ", (*list)[i].weight,
               " must be a positive number; leave a source out instead of giving it no weight");
      }
    }
  }
}

struct Dataset::Impl {
  std::vector<Source> sources;
  std::vector<int64_t> first_row;  // of each source, and the total
  std::optional<Mixture> mixture;
  int64_t num_tokens = 0;
  uint64_t seed = 0;
  std::string hash;

  [[nodiscard]] Row read(const Source& source, int64_t index) const {
    Row row;
    const auto& rows = source.packing;
    for (int64_t i = rows.row_begin[static_cast<size_t>(index)];
         i < rows.row_begin[static_cast<size_t>(index) + 1]; ++i) {
      const Piece& piece = source.pieces[static_cast<size_t>(rows.order[static_cast<size_t>(i)])];
      const size_t start = row.tokens.size();
      source.store.read(piece.begin, piece.length, row.tokens, row.loss_mask);
      row.loss_mask[start] = 0;
      row.segments.push_back({static_cast<int64_t>(start), piece.length, 0, -1});
    }
    return row;
  }

  [[nodiscard]] std::pair<const Source*, int64_t> locate(int64_t index) const {
    TESSERA_CHECK(index >= 0 && index < first_row.back(), "row ", index, " of ", first_row.back());
    const auto after = std::upper_bound(first_row.begin(), first_row.end(), index);
    const auto k = static_cast<size_t>(after - first_row.begin()) - 1;
    return {&sources[k], index - first_row[k]};
  }
};

Dataset::Dataset(const std::vector<SourceConfig>& sources, const DataConfig& config,
                 const Tokenizer& tokenizer, const ChatTemplate* chat_template, uint64_t seed,
                 const std::filesystem::path& cache_folder, const Share& share, bool show_progress)
    : impl_(std::make_unique<Impl>()) {
  config.validate();
  if (sources.empty())
    throw ConfigError("data: no source is given; set data.train to a list of {path: FILE}");
  impl_->seed = seed;
  impl_->first_row.push_back(0);
  std::vector<double> weights;
  Hasher hasher;
  hasher.update(tessera::detail::concat("rows 1 ", seed, " ", config.sequence_length, " ",
                                        config.packing, " ", config.overlong, "\n"));
  for (const SourceConfig& source_config : sources) {
    Source source{open_store(source_config.path, tokenizer, chat_template, cache_folder, share,
                             show_progress),
                  {},
                  {},
                  0,
                  0};
    make_rows(source, config);
    if (source.packing.num_rows() == 0)
      throw ConfigError(source_config.path + ": no sample is left to train on");
    for (const Piece& piece : source.pieces) impl_->num_tokens += piece.length;
    impl_->first_row.push_back(impl_->first_row.back() + source.packing.num_rows());
    weights.push_back(source_config.weight);
    const StoreInfo& info = source.store.info();
    hasher.update(tessera::detail::concat(source_config.weight, " ", info.tokenizer_hash, " ",
                                          info.template_hash, " ", source.store.num_tokens(),
                                          "\n"));
    for (const StoreSource& file : info.sources) hasher.update(file.hash + "\n");
    impl_->sources.push_back(std::move(source));
  }
  impl_->mixture.emplace(weights);
  impl_->hash = hasher.hex();
}

Dataset::~Dataset() = default;
Dataset::Dataset(Dataset&&) noexcept = default;
Dataset& Dataset::operator=(Dataset&&) noexcept = default;

int64_t Dataset::num_rows() const { return impl_->first_row.back(); }
int64_t Dataset::num_tokens() const { return impl_->num_tokens; }
const std::string& Dataset::hash() const { return impl_->hash; }

Row Dataset::row(int64_t index) const {
  const Mixture::Place place = impl_->mixture->place(index);
  const Source& source = impl_->sources[static_cast<size_t>(place.source)];
  const auto rows = static_cast<uint64_t>(source.packing.num_rows());
  const auto ordinal = static_cast<uint64_t>(place.ordinal);
  const uint64_t seed = impl_->seed + static_cast<uint64_t>(place.source) * 0xD1B54A32D192ED03ull;
  return impl_->read(
      source, static_cast<int64_t>(permute_index(seed, ordinal / rows, ordinal % rows, rows)));
}

Row Dataset::row_in_order(int64_t index) const {
  const auto [source, row] = impl_->locate(index);
  return impl_->read(*source, row);
}

std::vector<std::string> Dataset::origins(int64_t index) const {
  const auto [source, row] = impl_->locate(index);
  std::vector<std::string> out;
  const auto& rows = source->packing;
  for (int64_t i = rows.row_begin[static_cast<size_t>(row)];
       i < rows.row_begin[static_cast<size_t>(row) + 1]; ++i) {
    out.push_back(source->store.origin(
        source->pieces[static_cast<size_t>(rows.order[static_cast<size_t>(i)])].document));
  }
  return out;
}

DatasetStats Dataset::stats() const {
  DatasetStats stats;
  stats.rows = num_rows();
  stats.tokens = num_tokens();
  std::vector<uint8_t> mask;
  for (const Source& source : impl_->sources) {
    stats.documents += source.store.num_documents();
    stats.skipped += source.skipped;
    stats.shortened += source.shortened;
    stats.segments += static_cast<int64_t>(source.pieces.size());
    for (const Piece& piece : source.pieces) {
      mask.clear();
      source.store.read_mask(piece.begin, piece.length, mask);
      stats.targets += std::count(mask.begin() + 1, mask.end(), 1);
    }
  }
  return stats;
}

}  // namespace tessera::data
