#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "data/hdf5.h"
#include "data/store.h"
#include "data/store_format.h"

namespace tessera::data {

namespace {
using namespace store_format;

// An array that grows, written a chunk at a time.
template <typename T>
struct Column {
  hdf5::Dataset set;
  hid_t type = -1;
  std::vector<T> buffer;
  uint64_t written = 0;
};
}  // namespace

struct TokenStoreWriter::Impl {
  std::filesystem::path path, temporary;
  hdf5::File file;
  Column<int32_t> tokens, origin_file;
  Column<uint8_t> mask;
  Column<int64_t> offsets, origin_line;
  int64_t total = 0;

  [[noreturn]] void fail(const char* what) const {
    throw Error(tessera::detail::concat("cannot ", what, " ", path.string(),
                                        "; is the disk full, or the folder not writable?"));
  }
  void check(bool ok, const char* what) const {
    if (!ok) fail(what);
  }

  template <typename T>
  void create(Column<T>& column, const char* name, hid_t type) {
    const hsize_t zero = 0, unlimited = H5S_UNLIMITED, chunk = kChunk;
    const hdf5::Space space(H5Screate_simple(1, &zero, &unlimited));
    const hdf5::Properties properties(H5Pcreate(H5P_DATASET_CREATE));
    check(H5Pset_chunk(properties.get(), 1, &chunk) >= 0 && H5Pset_shuffle(properties.get()) >= 0 &&
              H5Pset_deflate(properties.get(), 4) >= 0 && H5Pset_fletcher32(properties.get()) >= 0,
          "set up");
    column.type = type;
    column.set = hdf5::Dataset(H5Dcreate2(file.get(), name, type, space.get(), H5P_DEFAULT,
                                          properties.get(), H5P_DEFAULT));
    check(column.set.valid(), "write");
  }

  template <typename T>
  void flush(Column<T>& column, hid_t memory_type, bool all) {
    const size_t whole = all ? column.buffer.size() : column.buffer.size() / kChunk * kChunk;
    if (whole == 0) return;
    const hsize_t start = column.written, count = whole, size = start + count;
    check(H5Dset_extent(column.set.get(), &size) >= 0, "write");
    const hdf5::Space target(H5Dget_space(column.set.get()));
    const hdf5::Space source(H5Screate_simple(1, &count, nullptr));
    check(
        H5Sselect_hyperslab(target.get(), H5S_SELECT_SET, &start, nullptr, &count, nullptr) >= 0 &&
            H5Dwrite(column.set.get(), memory_type, source.get(), target.get(), H5P_DEFAULT,
                     column.buffer.data()) >= 0,
        "write");
    column.written = size;
    column.buffer.erase(column.buffer.begin(),
                        column.buffer.begin() + static_cast<std::ptrdiff_t>(whole));
  }

  void flush_all(bool all) {
    const hdf5::Lock lock;
    flush(tokens, H5T_NATIVE_INT32, all);
    flush(mask, H5T_NATIVE_UINT8, all);
    flush(offsets, H5T_NATIVE_INT64, all);
    flush(origin_file, H5T_NATIVE_INT32, all);
    flush(origin_line, H5T_NATIVE_INT64, all);
  }

  void write_attributes(const StoreInfo& info) {
    const hdf5::Space scalar(H5Screate(H5S_SCALAR));
    const hdf5::Type text(H5Tcopy(H5T_C_S1));
    H5Tset_size(text.get(), std::strlen(kFormat));
    const hdf5::Attribute format(H5Acreate2(file.get(), kFormatAttribute, text.get(), scalar.get(),
                                            H5P_DEFAULT, H5P_DEFAULT));
    const hdf5::Attribute version(H5Acreate2(file.get(), kVersionAttribute, H5T_STD_I64LE,
                                             scalar.get(), H5P_DEFAULT, H5P_DEFAULT));
    check(H5Awrite(format.get(), text.get(), kFormat) >= 0 &&
              H5Awrite(version.get(), H5T_NATIVE_INT64, &kVersion) >= 0,
          "write");
    Json provenance = {{"tokenizer_hash", info.tokenizer_hash},
                       {"template_hash", info.template_hash},
                       {"vocab_size", info.vocab_size}};
    provenance["sources"] = Json::array();
    for (const auto& source : info.sources)
      provenance["sources"].push_back({{"path", source.path}, {"hash", source.hash}});
    const std::string dump = provenance.dump(-1, ' ', true, Json::error_handler_t::replace);
    const hsize_t size = dump.size();
    const hdf5::Space space(H5Screate_simple(1, &size, nullptr));
    const hdf5::Dataset set(H5Dcreate2(file.get(), "provenance", H5T_STD_U8LE, space.get(),
                                       H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    check(H5Dwrite(set.get(), H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, dump.data()) >= 0,
          "write");
  }
};

TokenStoreWriter::TokenStoreWriter(const std::filesystem::path& path, const StoreInfo& info)
    : impl_(std::make_unique<Impl>()) {
  Impl& w = *impl_;
  w.path = path;
  w.temporary = path;
  w.temporary += ".tmp." + std::to_string(::getpid());
  make_directories(path.has_parent_path() ? path.parent_path() : ".");
  const hdf5::Lock lock;
  w.file = hdf5::File(H5Fcreate(w.temporary.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  w.check(w.file.valid(), "create");
  w.create(w.tokens, "tokens", H5T_STD_I32LE);
  w.create(w.mask, "loss_mask", H5T_STD_U8LE);
  w.create(w.offsets, "offsets", H5T_STD_I64LE);
  w.create(w.origin_file, "origin_file", H5T_STD_I32LE);
  w.create(w.origin_line, "origin_line", H5T_STD_I64LE);
  w.write_attributes(info);
  w.offsets.buffer.push_back(0);
}

TokenStoreWriter::~TokenStoreWriter() {
  if (impl_ == nullptr || impl_->path.empty()) return;
  for (auto* set : {&impl_->tokens.set, &impl_->mask.set, &impl_->offsets.set,
                    &impl_->origin_file.set, &impl_->origin_line.set}) {
    set->reset();
  }
  impl_->file.reset();
  std::error_code ignored;
  std::filesystem::remove(impl_->temporary, ignored);
}

void TokenStoreWriter::append(std::span<const int32_t> tokens, std::span<const uint8_t> loss_mask,
                              int32_t file, int64_t line) {
  TESSERA_CHECK(tokens.size() == loss_mask.size() && !tokens.empty(),
                "a document needs tokens and a mask");
  Impl& w = *impl_;
  w.tokens.buffer.insert(w.tokens.buffer.end(), tokens.begin(), tokens.end());
  w.mask.buffer.insert(w.mask.buffer.end(), loss_mask.begin(), loss_mask.end());
  w.total += static_cast<int64_t>(tokens.size());
  w.offsets.buffer.push_back(w.total);
  w.origin_file.buffer.push_back(file);
  w.origin_line.buffer.push_back(line);
  if (w.tokens.buffer.size() >= 4 * kChunk || w.offsets.buffer.size() >= 2 * kChunk)
    w.flush_all(false);
}

void TokenStoreWriter::finish() {
  Impl& w = *impl_;
  w.flush_all(true);
  {
    const hdf5::Lock lock;
    for (hid_t id : {w.tokens.set.get(), w.mask.set.get(), w.offsets.set.get(),
                     w.origin_file.set.get(), w.origin_line.set.get()}) {
      w.check(H5Dflush(id) >= 0, "write");
    }
    w.check(H5Fflush(w.file.get(), H5F_SCOPE_GLOBAL) >= 0, "write");
    for (auto* set :
         {&w.tokens.set, &w.mask.set, &w.offsets.set, &w.origin_file.set, &w.origin_line.set})
      set->reset();
    w.file.reset();
  }
  const int fd = ::open(w.temporary.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  if (fd >= 0) ::close(fd);
  w.check(synced && ::rename(w.temporary.c_str(), w.path.c_str()) == 0, "write");
  sync_directory(w.path.has_parent_path() ? w.path.parent_path() : ".");
  w.path.clear();  // nothing left for the destructor
}

}  // namespace tessera::data
