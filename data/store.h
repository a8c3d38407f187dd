// The token store: tokenised documents in one HDF5 file.
//
//   /tokens      int32 [N]     all documents end to end      /origin_file  int32 [D]  index into
//   the sources /loss_mask   uint8 [N]     1 = a target                  /origin_line  int64 [D]
//   line there, 0 = the whole file /offsets     int64 [D+1]   where documents begin /provenance
//   bytes      JSON: sources with their hashes,
//                                                            tokenizer and template hash
//
// Arrays are chunked, compressed and carry checksums. Attributes: format, version. A store is
// written under a temporary name and renamed into place: a file under its name is whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tessera::data {

struct StoreSource {
  std::string path, hash;
  bool operator==(const StoreSource&) const = default;
};

struct StoreInfo {
  std::vector<StoreSource> sources;
  std::string tokenizer_hash, template_hash;
  int64_t vocab_size = 0;
};

class TokenStoreWriter final {
 public:
  /// Throws Error naming the path when the file cannot be written; it appears only after finish().
  TokenStoreWriter(const std::filesystem::path& path, const StoreInfo& info);
  ~TokenStoreWriter();
  TokenStoreWriter(const TokenStoreWriter&) = delete;
  TokenStoreWriter& operator=(const TokenStoreWriter&) = delete;

  void append(std::span<const int32_t> tokens, std::span<const uint8_t> loss_mask, int32_t file,
              int64_t line);
  /// Writes what is left, syncs, and renames into place.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Reads slices on demand; thread-safe.
class TokenStore final {
 public:
  /// Throws ConfigError when the file is missing, foreign, damaged or of another version.
  explicit TokenStore(const std::filesystem::path& path);
  ~TokenStore();
  TokenStore(TokenStore&&) noexcept;
  TokenStore& operator=(TokenStore&&) noexcept;

  [[nodiscard]] const StoreInfo& info() const;
  [[nodiscard]] const std::filesystem::path& path() const;
  [[nodiscard]] int64_t num_documents() const;
  [[nodiscard]] int64_t num_tokens() const;
  /// [num_documents + 1]
  [[nodiscard]] const std::vector<int64_t>& offsets() const;
  /// "file:line" of a document.
  [[nodiscard]] std::string origin(int64_t document) const;
  [[nodiscard]] int32_t origin_file(int64_t document) const;
  [[nodiscard]] int64_t origin_line(int64_t document) const;
  /// Appends tokens [begin, begin + length) and their mask. Throws ConfigError when the file is
  /// damaged there.
  void read(int64_t begin, int64_t length, std::vector<int32_t>& tokens,
            std::vector<uint8_t>& loss_mask) const;
  void read_mask(int64_t begin, int64_t length, std::vector<uint8_t>& loss_mask) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::data
