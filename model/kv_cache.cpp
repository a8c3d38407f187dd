#include "model/kv_cache.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"

namespace tessera::model {

KvCache::KvCache(const std::vector<int64_t>& layers, int64_t row, at::TensorOptions options)
    : layers_(static_cast<int64_t>(layers.size())), row_(row), options_(options) {
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto layer = static_cast<size_t>(layers[i]);
    index_.resize(std::max(index_.size(), layer + 1), -1);
    index_[layer] = static_cast<int64_t>(i);
  }
}

int64_t KvCache::open(int64_t parent) {
  int64_t number = static_cast<int64_t>(sequences_.size());
  if (free_sequences_.empty()) {
    sequences_.emplace_back();
  } else {
    number = free_sequences_.back();
    free_sequences_.pop_back();
  }
  Sequence& sequence = at(number);
  sequence.open = true;
  sequence.parent = parent;
  sequence.begin = sequence.length = parent < 0 ? 0 : at(parent).length;
  if (parent >= 0) ++at(parent).children;
  return number;
}

void KvCache::close(int64_t sequence) {
  TESSERA_CHECK(at(sequence).open);
  at(sequence).open = false;
  release(sequence);
}

void KvCache::release(int64_t number) {
  Sequence& sequence = at(number);
  if (sequence.open || sequence.children > 0) return;
  free_pages_.insert(free_pages_.end(), sequence.pages.rbegin(), sequence.pages.rend());
  free_sequences_.push_back(number);
  const int64_t parent = sequence.parent;
  sequence = {};
  if (parent < 0) return;
  --at(parent).children;
  release(parent);
}

void KvCache::reserve(int64_t number, int64_t length) {
  Sequence& sequence = at(number);
  while (sequence.begin + static_cast<int64_t>(sequence.pages.size()) * kPageTokens < length) {
    if (free_pages_.empty()) {
      free_pages_.push_back(static_cast<int64_t>(pages_.size()));
      pages_.push_back(at::empty({layers_, kPageTokens, row_}, options_));
    }
    sequence.pages.push_back(free_pages_.back());
    free_pages_.pop_back();
  }
}

char* KvCache::page(int64_t layer, int64_t page) const {
  return static_cast<char*>(pages_[static_cast<size_t>(page)].mutable_data_ptr()) + index_[static_cast<size_t>(layer)] * kPageTokens * row_bytes();
}

void* KvCache::row(int64_t layer, int64_t number, int64_t position) {
  const Sequence& sequence = at(number);
  const int64_t own = position - sequence.begin;
  TESSERA_CHECK(own >= 0 && own < static_cast<int64_t>(sequence.pages.size()) * kPageTokens, "cached sequence ", number, " position ", position);
  return page(layer, sequence.pages[static_cast<size_t>(own / kPageTokens)]) + own % kPageTokens * row_bytes();
}

void KvCache::list_runs(int64_t layer, int64_t number, int64_t count, std::vector<kernels::CachedRun>& runs) const {
  const Sequence& sequence = at(number);
  if (sequence.parent >= 0) list_runs(layer, sequence.parent, std::min(count, sequence.begin), runs);
  for (int64_t own = 0; own < count - sequence.begin; own += kPageTokens)
    runs.push_back({page(layer, sequence.pages[static_cast<size_t>(own / kPageTokens)]), std::min(kPageTokens, count - sequence.begin - own)});
}

int64_t KvCache::bytes() const { return static_cast<int64_t>(pages_.size()) * layers_ * kPageTokens * row_bytes(); }

}  // namespace tessera::model
