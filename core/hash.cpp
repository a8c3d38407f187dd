#include "core/hash.h"

#include <xxhash.h>

#include <array>
#include <cstdio>

#include "core/file.h"

namespace tessera {

struct Hasher::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Hasher::Hasher() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh); }
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::update(const void* data, size_t size) { XXH3_128bits_update(state_->xxh, data, size); }

std::string Hasher::hex() const {
  const XXH128_hash_t value = XXH3_128bits_digest(state_->xxh);
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(value.high64),
                static_cast<unsigned long long>(value.low64));
  return text.data();
}

std::string hash_bytes(std::string_view bytes) {
  Hasher hasher;
  hasher.update(bytes);
  return hasher.hex();
}

uint64_t hash64(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string hash_file(const std::filesystem::path& path) {
  constexpr size_t kAtOnce = size_t{1} << 26;
  const MappedFile file(path);
  Hasher hasher;
  for (size_t begin = 0; begin < file.bytes().size(); begin += kAtOnce) {
    hasher.update(file.bytes().substr(begin, kAtOnce));
    file.release(begin, kAtOnce);
  }
  return hasher.hex();
}

}  // namespace tessera
