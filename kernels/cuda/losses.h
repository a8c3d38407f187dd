// Rows of logits: cross-entropy, and the softmax at a temperature, as the functions of kernels/accelerator.h. Plain data: compiled by nvcc. All
// return at once.
#pragma once

#include <cstdint>

#include "kernels/cuda/elementwise.h"

namespace tessera::kernels::cuda {

struct Logits {
  void* data = nullptr;          // [rows, vocabulary], contiguous
  int64_t rows = 0, vocabulary = 0;
  const int32_t* ids = nullptr;  // [rows], each in [0, vocabulary)
};

/// log_probs: [rows] receives those of ids; with `weights` [rows] the logits become their gradient of -sum(weights log_probs).
void cross_entropy(Where where, const Logits& logits, const float* weights, float* log_probs);
/// softmax: [rows, 5] receives the largest logit, log of the sum of exponentials, 0, the log-probability of the id, the entropy.
void softmax_rows(Where where, const Logits& logits, float inverse_temperature, float* softmax);
/// The logits become the gradient of -sum(weights log_probs).
void softmax_gradient(Where where, const Logits& logits, const float* weights, float inverse_temperature, const float* softmax);

}  // namespace tessera::kernels::cuda
