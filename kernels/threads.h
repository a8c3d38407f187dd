// Splitting rows over the intra-op threads. The split depends on the number of threads only, so results do too.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace tessera::kernels {

/// Of rows that are read once, for one thread.
constexpr int64_t kRowsAtLeast = 16;

/// Runs body(chunk, begin, end) for one contiguous chunk of [0, count) per thread; at least `grain` rows a chunk.
template <typename Body>
void for_each_chunk(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  const int64_t chunks = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, at::get_num_threads());
  if (chunks == 1) {
    body(int64_t{0}, int64_t{0}, count);
    return;
  }
  at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      body(chunk, count * chunk / chunks, count * (chunk + 1) / chunks);
  });
}

/// Runs body(task) for every task in [0, count), each on whichever thread is free: for tasks of uneven size that write
/// to places of their own.
template <typename Body>
void for_each_task(int64_t count, const Body& body) {
  std::atomic<int64_t> next{0};
  const int64_t workers = std::min<int64_t>(count, at::get_num_threads());
  if (workers <= 0) return;
  at::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    for (int64_t task = next++; task < count; task = next++) body(task);
  });
}

/// Runs body(begin, end) over parts of [0, count) that grow smaller towards the end, so that threads of unequal speed end together: for
/// work whose results do not depend on where it is cut.
template <typename Body>
void for_each_part(int64_t count, const Body& body) {
  const int64_t workers = std::min<int64_t>(count, at::get_num_threads());
  if (workers <= 0) return;
  std::atomic<int64_t> next{0};
  at::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    for (int64_t begin = next; begin < count;) {
      const int64_t end = begin + std::max<int64_t>(1, (count - begin) / (2 * workers));
      if (!next.compare_exchange_weak(begin, end)) continue;
      body(begin, end);
      begin = next;
    }
  });
}

}  // namespace tessera::kernels
