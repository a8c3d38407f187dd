// Names shared by the store's writer and reader.
#pragma once

#include <cstdint>

#include "data/json.h"
#include "data/store.h"

namespace tessera::data::store_format {

inline constexpr const char* kFormatAttribute = "format";
inline constexpr const char* kVersionAttribute = "version";
inline constexpr const char* kFormat = "tessera-token-store";
inline constexpr int64_t kVersion = 1;
inline constexpr uint64_t kChunk = 1 << 16;  // elements

}  // namespace tessera::data::store_format
