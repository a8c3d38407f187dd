#include "model/kv_cache.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"

namespace tessera::model {

KvCache::KvCache(int64_t layers, int64_t slots, int64_t row)
    : layers_(static_cast<size_t>(layers)), lengths_(static_cast<size_t>(slots), 0), slots_(slots), row_(row) {}

void KvCache::reserve(int64_t length) {
  if (length <= capacity_) return;
  const int64_t capacity = std::max({length, capacity_ + capacity_ / 2, int64_t{64}});
  const int64_t used = *std::max_element(lengths_.begin(), lengths_.end());
  for (auto& layer : layers_) {
    at::Tensor grown = at::empty({slots_, capacity, row_}, at::kFloat);
    if (used > 0) grown.narrow(1, 0, used).copy_(layer.narrow(1, 0, used));
    layer = grown;
  }
  capacity_ = capacity;
}

float* KvCache::row(int64_t layer, int64_t slot, int64_t position) {
  TESSERA_CHECK(slot < slots_ && position < capacity_, "cache slot ", slot, " position ", position);
  return layers_[static_cast<size_t>(layer)].data_ptr<float>() + (slot * capacity_ + position) * row_;
}

int64_t KvCache::bytes() const { return static_cast<int64_t>(layers_.size()) * slots_ * capacity_ * row_ * 4; }

}  // namespace tessera::model
