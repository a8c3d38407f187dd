// Counter-based random numbers (Philox 4x32-10; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A draw depends on its key and counter only, never on a rank, a thread or on earlier draws: that is what makes
// shuffling, dropout and sampling the same for every layout and after every resume.
#pragma once

#include <array>
#include <cstdint>

namespace tessera {

/// Ten rounds of Philox 4x32: 128 random bits for a 128-bit counter under a 64-bit key.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// 64 random bits for up to two 64-bit coordinates (e.g. step and position) under `seed` and a `site` that keeps the
/// uses apart.
uint64_t random_bits(uint64_t seed, uint32_t site, uint64_t a, uint32_t b = 0);

/// Uniform in [0, 1), from the upper 53 bits of random_bits.
double random_uniform(uint64_t seed, uint32_t site, uint64_t a, uint32_t b = 0);

/// Fills `out` with normal numbers of mean 0 and deviation 1; element i depends on (seed, site, first + i) only.
void random_normal(uint64_t seed, uint32_t site, uint64_t first, int64_t count, float* out);

/// Image of `i` under a pseudo-random permutation of [0, n) chosen by (seed, epoch): a Feistel network with cycle
/// walking, O(1) memory. Requires 0 <= i < n.
uint64_t permute_index(uint64_t seed, uint64_t epoch, uint64_t i, uint64_t n);

}  // namespace tessera
