// Segments: how rows of tokens are divided for attention. Shared by data/ (which makes them) and kernels/ (which walk
// them). A segment attends causally to itself and wholly to its parent and the parent's ancestors; a document is a
// segment without parent.
#pragma once

#include <cstdint>

namespace tessera {

struct Segment {
  int64_t start = 0;           // index of the first token, in the row or micro-batch
  int64_t length = 0;          // tokens
  int64_t first_position = 0;  // position id of the first token
  int64_t parent = -1;         // index of an earlier segment in the same list, or -1
  bool operator==(const Segment&) const = default;
};

}  // namespace tessera
