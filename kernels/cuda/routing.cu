#include "kernels/cuda/routing.h"

#include "kernels/cuda/launch.h"

namespace tessera::kernels::cuda {

namespace {

/// The best of a warp's candidates, the lower index among equals.
struct Candidate {
  float value = -INFINITY;
  int32_t index = INT32_MAX;
};
__device__ bool better(const Candidate& a, const Candidate& b) { return a.value > b.value || (a.value == b.value && a.index < b.index); }
__device__ int32_t best_of_warp(Candidate mine) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Candidate other{__shfl_xor_sync(kAllLanes, mine.value, step), __shfl_xor_sync(kAllLanes, mine.index, step)};
    if (better(other, mine)) mine = other;
  }
  return mine.index;
}

/// The index of the best of `count` numbers that have not been taken; it is taken then, which NaN marks.
__device__ int32_t take_best(float* values, int32_t count) {
  Candidate mine;
  for (int32_t i = Warp::lane(); i < count; i += kWarp)
    if (const Candidate here{values[i], i}; better(here, mine)) mine = here;
  const int32_t best = best_of_warp(mine);
  if (Warp::lane() == best % kWarp) values[best] = NAN;
  __syncwarp();
  return best;
}

/// A warp a token. `values` and `worth` are its own.
__device__ void choose(const Choice& job, int64_t token, float* values, float* worth) {
  for (int32_t e = Warp::lane(); e < job.experts; e += kWarp) {
    const float x = job.scores[token * job.experts + e] + (job.bias == nullptr ? 0.0f : job.bias[e]);
    values[e] = x != x ? INFINITY : x;  // a broken score is chosen, and seen in the loss
  }
  __syncwarp();
  if (job.kept_groups < job.groups) {
    const int32_t size = job.experts / job.groups;
    for (int32_t g = Warp::lane(); g < job.groups; g += kWarp) {
      float first = -INFINITY, second = -INFINITY;
      for (int32_t e = g * size; e < (g + 1) * size; ++e) {
        const float x = values[e];
        if (x > first) second = first;
        if (x > second && x <= first) second = x;
        if (x > first) first = x;
      }
      worth[g] = job.group_by_maximum ? first : first + second;
    }
    __syncwarp();
    for (int32_t kept = 0; kept < job.kept_groups; ++kept) take_best(worth, job.groups);
    for (int32_t e = Warp::lane(); e < job.experts; e += kWarp)
      if (worth[e / size] == worth[e / size]) values[e] = -INFINITY;  // its group was not taken
    __syncwarp();
  }
  for (int32_t k = 0; k < job.choices; ++k) {
    const int32_t best = take_best(values, job.experts);
    if (Warp::lane() == 0) job.chosen[token * job.choices + k] = best;
  }
}

__global__ void choose_kernel(Choice job) {
  __shared__ float values[kWarps][kMostExperts], worth[kWarps][kMostGroups];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (const int64_t token = Warp::index(); token < job.tokens) choose(job, token, values[warp], worth[warp]);
}

constexpr int64_t kChunk = 512;  // slots that one warp sorts

/// counts[chunk, e]: how many of the chunk's slots are of expert e.
__global__ void count_kernel(Sorting job, int32_t* counts) {
  __shared__ int32_t here[kMostExperts];
  for (int32_t e = Block::lane(); e < job.num_experts; e += kThreads) here[e] = 0;
  __syncthreads();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kChunk;
  for (int64_t i = first + Block::lane(); i < first + kChunk && i < job.slots; i += kThreads) atomicAdd(&here[job.experts[i]], 1);
  __syncthreads();
  for (int32_t e = Block::lane(); e < job.num_experts; e += kThreads) counts[static_cast<int64_t>(blockIdx.x) * job.num_experts + e] = here[e];
}

/// One block: counts become each chunk's first row of each expert.
__global__ void offsets_kernel(Sorting job, int32_t* counts, int64_t chunks) {
  __shared__ int32_t totals[kMostExperts];
  for (int32_t e = Block::lane(); e < job.num_experts; e += kThreads) {
    int32_t total = 0;
    for (int64_t c = 0; c < chunks; ++c) total += counts[c * job.num_experts + e];
    totals[e] = total;
  }
  __syncthreads();
  if (Block::lane() == 0) {
    int32_t sum = 0;
    for (int32_t e = 0; e < job.num_experts; ++e) {
      job.offsets[e] = sum;
      const int32_t total = totals[e];
      totals[e] = sum;
      sum += total;
    }
    job.offsets[job.num_experts] = sum;
  }
  __syncthreads();
  for (int32_t e = Block::lane(); e < job.num_experts; e += kThreads) {
    int32_t next = totals[e];
    for (int64_t c = 0; c < chunks; ++c) {
      int32_t& place = counts[c * job.num_experts + e];
      const int32_t count = place;
      place = next;
      next += count;
    }
  }
}

/// A block's first warp takes a chunk, 32 slots at a time: a slot's row is the expert's next, behind those of lower lanes with the same expert.
__global__ void place_kernel(Sorting job, int32_t* next_rows) {
  if (threadIdx.x >= kWarp) return;
  int32_t* next = next_rows + static_cast<int64_t>(blockIdx.x) * job.num_experts;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kChunk;
  for (int64_t i = first; i < first + kChunk && i < job.slots; i += kWarp) {
    const int64_t slot = i + Warp::lane();
    const bool there = slot < job.slots;
    const int32_t expert = there ? job.experts[slot] : job.num_experts;
    const unsigned same = __match_any_sync(kAllLanes, static_cast<unsigned>(expert)), before = same & ((1U << Warp::lane()) - 1U);
    const int32_t row = there ? next[expert] + __popc(before) : 0;
    __syncwarp();  // all have read
    if (there && before == 0) next[expert] += __popc(same);
    __syncwarp();
    if (!there) continue;
    job.row_of[slot] = row;
    job.slot_of[row] = static_cast<int32_t>(slot);
  }
}

}  // namespace

void choose_experts(void* stream, const Choice& job) {
  if (job.tokens > 0) launch(stream, groups_for<Warp>(job.tokens), choose_kernel, job);
}

int64_t sorting_workspace(int64_t slots, int32_t num_experts) { return divided_up(slots, kChunk) * num_experts; }

void sort_by_expert(void* stream, const Sorting& job) {
  const int64_t chunks = divided_up(job.slots, kChunk);
  const dim3 blocks(static_cast<unsigned>(chunks));
  if (chunks > 0) launch(stream, blocks, count_kernel, job, job.workspace);
  launch(stream, dim3(1), offsets_kernel, job, job.workspace, chunks);
  if (chunks > 0) launch(stream, blocks, place_kernel, job, job.workspace);
}

}  // namespace tessera::kernels::cuda
