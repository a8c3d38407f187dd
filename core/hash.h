// Content hashes (XXH3, 128 bits): they detect damage and change, not an adversary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace tessera {

/// Hash of a stream of bytes as 32 lower-case hexadecimal digits.
class Hasher final {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  void update(const void* data, size_t size);
  void update(std::string_view text) { update(text.data(), text.size()); }
  [[nodiscard]] std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

[[nodiscard]] std::string hash_bytes(std::string_view bytes);
/// 64 bits of it, as a number: to make a key of a name.
[[nodiscard]] uint64_t hash64(std::string_view bytes);

/// Throws Error, naming the path, when the file cannot be read.
[[nodiscard]] std::string hash_file(const std::filesystem::path& path);

}  // namespace tessera
