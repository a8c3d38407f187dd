// What an FP8 training recipe quantises how. Each of a linear's three products sums over one dimension of its operands; a
// recipe says how long a tile is along that dimension and how wide across it.
#pragma once

#include <string>
#include <vector>

#include "kernels/fp8/format.h"

namespace tessera::kernels::fp8 {

/// Elements that share a scale along the dimension that is summed over, and across it; 0: all.
struct Grain {
  int64_t along = 0, across = 0;
};

struct Recipe {
  std::string name;
  Format format = Format::kE4m3;           // of activations and weights
  Format gradient_format = Format::kE4m3;  // of output gradients
  Grain activation = {}, gradient = {}, weight = {};  // a weight's is square: fprop and dgrad share the quantised weight
  bool power_of_two_scales = false;

  /// Activations and gradients [T, .] where their columns are summed over (fprop, dgrad), and where their rows are (wgrad).
  [[nodiscard]] Scheme activation_by_row() const { return {format, {activation.across, activation.along}, power_of_two_scales}; }
  [[nodiscard]] Scheme activation_by_token() const { return {format, {activation.along, activation.across}, power_of_two_scales}; }
  [[nodiscard]] Scheme gradient_by_row() const { return {gradient_format, {gradient.across, gradient.along}, power_of_two_scales}; }
  [[nodiscard]] Scheme gradient_by_token() const { return {gradient_format, {gradient.along, gradient.across}, power_of_two_scales}; }
  [[nodiscard]] Scheme weight_scheme() const { return {format, {weight.across, weight.along}, power_of_two_scales}; }
};

/// blockwise: E4M3, 1x128 tiles of activations and output gradients, 128x128 blocks of weights (DeepSeek-V3, arXiv 2412.19437,
/// section 3.3). bfloat16: that, without scales. tensorwise: one scale a tensor, gradients in E5M2 (arXiv 2209.05433, section 3). blockwise_coarse_gradients:
/// gradients in blocks of 128x128 too, what the paper's appendix B.2 warns of; for experiments.
[[nodiscard]] const std::vector<Recipe>& recipes();

/// Null for a name that no recipe has.
[[nodiscard]] const Recipe* find_recipe(const std::string& name);

}  // namespace tessera::kernels::fp8
