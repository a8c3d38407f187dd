// What can stand in front of a linear, fused with it: its output is made again in the backward pass instead of being kept.
#pragma once

namespace tessera::kernels {

enum class Prologue { kNone, kRmsNorm, kSwiglu };

}  // namespace tessera::kernels
