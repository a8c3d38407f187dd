#include "data/store.h"

#include <algorithm>

#include "core/error.h"
#include "data/hdf5.h"
#include "data/store_format.h"

namespace tessera::data {

namespace {
using namespace store_format;
constexpr size_t kTokenCacheBytes = 64 << 20;
constexpr size_t kMaskCacheBytes = 16 << 20;
constexpr int64_t kMaxProvenanceBytes = 256 << 20;
}  // namespace

struct TokenStore::Impl {
  std::filesystem::path path;
  hdf5::File file;
  hdf5::Dataset tokens, mask;
  StoreInfo info;
  std::vector<int64_t> offsets, origin_line;
  std::vector<int32_t> origin_file;

  template <typename... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    throw ConfigError(tessera::detail::concat(path.string(), ": ", parts...));
  }
  [[noreturn]] void damaged(const char* what) const {
    refuse("the token store is damaged (", what, "); delete it and run `tessera prepare` again");
  }

  hdf5::Dataset open(const char* name, H5T_class_t type, size_t bytes, size_t cache_bytes,
                     int64_t& size) const {
    const hdf5::Properties access(H5Pcreate(H5P_DATASET_ACCESS));
    if (cache_bytes > 0) H5Pset_chunk_cache(access.get(), 4099, cache_bytes, 0.75);
    hdf5::Dataset set(H5Dopen2(file.get(), name, access.get()));
    if (!set.valid()) damaged(name);
    const hdf5::Space space(H5Dget_space(set.get()));
    const hdf5::Type stored(H5Dget_type(set.get()));
    hsize_t extent = 0;
    if (!space.valid() || H5Sget_simple_extent_ndims(space.get()) != 1 ||
        H5Sget_simple_extent_dims(space.get(), &extent, nullptr) != 1 ||
        H5Tget_class(stored.get()) != type || H5Tget_size(stored.get()) != bytes ||
        extent > (uint64_t{1} << 48)) {
      damaged(name);
    }
    size = static_cast<int64_t>(extent);
    return set;
  }

  // An array that claims more than the file could hold is not read: a few bytes must not ask for
  // terabytes of memory.
  template <typename T>
  std::vector<T> read_all(const char* name, hid_t memory_type) const {
    int64_t size = 0;
    const hdf5::Dataset set = open(name, H5T_INTEGER, sizeof(T), 0, size);
    const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(path));
    if (size > file_bytes * 1100 / static_cast<int64_t>(sizeof(T)) + 1024)
      damaged(name);  // deflate gains at most 1032
    std::vector<T> out(static_cast<size_t>(size));
    if (size > 0 && H5Dread(set.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out.data()) < 0)
      damaged(name);
    return out;
  }

  void check_format() const {
    const hdf5::Attribute format(H5Aopen(file.get(), kFormatAttribute, H5P_DEFAULT));
    const hdf5::Attribute version(H5Aopen(file.get(), kVersionAttribute, H5P_DEFAULT));
    char name[64] = {};
    int64_t number = 0;
    bool known = format.valid() && version.valid();
    if (known) {
      const hdf5::Type type(H5Aget_type(format.get()));
      known = H5Tget_class(type.get()) == H5T_STRING && H5Tget_size(type.get()) < sizeof name &&
              H5Tis_variable_str(type.get()) == 0 && H5Aread(format.get(), type.get(), name) >= 0 &&
              std::string(name) == kFormat;
      const hdf5::Space space(H5Aget_space(version.get()));
      known = known && H5Sget_simple_extent_npoints(space.get()) == 1 &&
              H5Aread(version.get(), H5T_NATIVE_INT64, &number) >= 0;
    }
    if (!known)
      refuse("an HDF5 file, but not a Tessera token store; make one with `tessera prepare`");
    if (number != kVersion) {
      refuse("a token store of version ", number, ", this build reads version ", kVersion,
             "; run `tessera prepare` again");
    }
  }

  void read_provenance() {
    const auto bytes = read_all<uint8_t>("provenance", H5T_NATIVE_UINT8);
    if (static_cast<int64_t>(bytes.size()) > kMaxProvenanceBytes) damaged("provenance");
    const Json json =
        parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
    try {
      info.tokenizer_hash = json.at("tokenizer_hash").get<std::string>();
      info.template_hash = json.at("template_hash").get<std::string>();
      info.vocab_size = json.at("vocab_size").get<int64_t>();
      for (const Json& item : json.at("sources"))
        info.sources.push_back(
            {item.at("path").get<std::string>(), item.at("hash").get<std::string>()});
    } catch (const Json::exception&) {
      damaged("provenance");
    }
  }

  template <typename T>
  void read_slice(const hdf5::Dataset& set, hid_t type, int64_t begin, int64_t length,
                  std::vector<T>& out) const {
    if (length == 0) return;
    TESSERA_CHECK(begin >= 0 && length > 0 && begin + length <= offsets.back(),
                  "a slice outside of the store");
    const size_t before = out.size();
    out.resize(before + static_cast<size_t>(length));
    const hdf5::Lock lock;
    const hsize_t start = static_cast<hsize_t>(begin), count = static_cast<hsize_t>(length);
    const hdf5::Space source(H5Dget_space(set.get()));
    const hdf5::Space target(H5Screate_simple(1, &count, nullptr));
    if (H5Sselect_hyperslab(source.get(), H5S_SELECT_SET, &start, nullptr, &count, nullptr) < 0 ||
        H5Dread(set.get(), type, target.get(), source.get(), H5P_DEFAULT, out.data() + before) <
            0) {
      damaged("a chunk does not match its checksum");
    }
  }
};

TokenStore::TokenStore(const std::filesystem::path& path) : impl_(std::make_unique<Impl>()) {
  Impl& s = *impl_;
  s.path = path;
  if (!std::filesystem::is_regular_file(path)) s.refuse("no such file");
  const hdf5::Lock lock;
  s.file = hdf5::File(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT));
  if (!s.file.valid())
    s.refuse("not an HDF5 file, or damaged; make a token store with `tessera prepare`");
  s.check_format();
  s.read_provenance();
  s.offsets = s.read_all<int64_t>("offsets", H5T_NATIVE_INT64);
  s.origin_file = s.read_all<int32_t>("origin_file", H5T_NATIVE_INT32);
  s.origin_line = s.read_all<int64_t>("origin_line", H5T_NATIVE_INT64);
  int64_t tokens = 0, masks = 0;
  s.tokens = s.open("tokens", H5T_INTEGER, 4, kTokenCacheBytes, tokens);
  s.mask = s.open("loss_mask", H5T_INTEGER, 1, kMaskCacheBytes, masks);
  const bool counts = !s.offsets.empty() && s.origin_file.size() + 1 == s.offsets.size() &&
                      s.origin_line.size() == s.origin_file.size() && tokens == masks;
  if (!counts || s.offsets.front() != 0 || s.offsets.back() != tokens) s.damaged("offsets");
  for (size_t i = 0; i + 1 < s.offsets.size(); ++i) {
    if (s.offsets[i + 1] <= s.offsets[i]) s.damaged("offsets");
    if (s.origin_file[i] < 0 || static_cast<size_t>(s.origin_file[i]) >= s.info.sources.size())
      s.damaged("origin_file");
  }
}

TokenStore::~TokenStore() = default;
TokenStore::TokenStore(TokenStore&&) noexcept = default;
TokenStore& TokenStore::operator=(TokenStore&&) noexcept = default;

const StoreInfo& TokenStore::info() const { return impl_->info; }
const std::filesystem::path& TokenStore::path() const { return impl_->path; }
int64_t TokenStore::num_documents() const {
  return static_cast<int64_t>(impl_->offsets.size()) - 1;
}
int64_t TokenStore::num_tokens() const { return impl_->offsets.back(); }
const std::vector<int64_t>& TokenStore::offsets() const { return impl_->offsets; }
int32_t TokenStore::origin_file(int64_t document) const {
  return impl_->origin_file.at(static_cast<size_t>(document));
}
int64_t TokenStore::origin_line(int64_t document) const {
  return impl_->origin_line.at(static_cast<size_t>(document));
}

std::string TokenStore::origin(int64_t document) const {
  const std::string& file = impl_->info.sources[static_cast<size_t>(origin_file(document))].path;
  const int64_t line = origin_line(document);
  return line > 0 ? file + ":" + std::to_string(line) : file;
}

void TokenStore::read(int64_t begin, int64_t length, std::vector<int32_t>& tokens,
                      std::vector<uint8_t>& loss_mask) const {
  impl_->read_slice(impl_->tokens, H5T_NATIVE_INT32, begin, length, tokens);
  read_mask(begin, length, loss_mask);
}

void TokenStore::read_mask(int64_t begin, int64_t length, std::vector<uint8_t>& loss_mask) const {
  impl_->read_slice(impl_->mask, H5T_NATIVE_UINT8, begin, length, loss_mask);
}

}  // namespace tessera::data
