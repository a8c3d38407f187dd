// A router's choices, and rows sorted by expert, as the functions of kernels/accelerator.h; the numbers stay on the device. Plain data: compiled by
// nvcc. All return at once.
//
// Legend: T tokens, E experts, K choices a token.
#pragma once

#include <cstdint>

namespace tessera::kernels::cuda {

constexpr int64_t kMostExperts = 1024, kMostGroups = 64;  // whose scores a warp holds

struct Choice {
  const float *scores = nullptr, *bias = nullptr;  // [T, E]; [E] or null
  int64_t tokens = 0;
  int32_t experts = 1, choices = 1, groups = 1, kept_groups = 1;
  bool group_by_maximum = false;
  int32_t* chosen = nullptr;  // [T, K]
};
void choose_experts(void* stream, const Choice& job);

struct Sorting {
  const int32_t* experts = nullptr;  // [slots], each in [0, num_experts)
  int64_t slots = 0;                 // T K
  int32_t num_experts = 1;
  int32_t* workspace = nullptr;      // sorting_workspace(slots, num_experts) numbers
  int32_t *offsets = nullptr, *row_of = nullptr, *slot_of = nullptr;  // [E + 1], [slots], [slots]
};
/// Stable: within an expert by slot.
void sort_by_expert(void* stream, const Sorting& job);
[[nodiscard]] int64_t sorting_workspace(int64_t slots, int32_t num_experts);

}  // namespace tessera::kernels::cuda
