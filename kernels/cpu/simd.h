// Vectors of floats by GCC's vector extension; the width follows the instruction set a file is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#ifndef TESSERA_VECTOR_BYTES
#error "compile with -DTESSERA_VECTOR_BYTES=16, 32 or 64"
#endif

namespace tessera::kernels::TESSERA_ISA {

constexpr int64_t kWidth = TESSERA_VECTOR_BYTES / 4;
typedef float Vec __attribute__((vector_size(TESSERA_VECTOR_BYTES)));
typedef int32_t IntVec __attribute__((vector_size(TESSERA_VECTOR_BYTES)));
typedef float UnalignedVec __attribute__((vector_size(TESSERA_VECTOR_BYTES), aligned(4)));

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
/// Keeps the compiler from folding a load into every use of its result.
inline void keep_in_register(Vec& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__) && TESSERA_VECTOR_BYTES == 16
  asm("" : "+w"(v));
#else
  (void)v;
#endif
}
inline Vec broadcast(float x) { return x - Vec{}; }
inline Vec load_partial(const float* p, int64_t count) {
  Vec v{};
  std::memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
  return v;
}
inline void store_partial(float* p, Vec v, int64_t count) {
  std::memcpy(p, &v, static_cast<size_t>(count) * sizeof(float));
}
/// Halves of halves: extractions and adds that stay in registers.
inline float horizontal_sum(Vec v) {
  typedef float Quarter __attribute__((vector_size(16)));
#if TESSERA_VECTOR_BYTES == 64
  typedef float Half __attribute__((vector_size(32)));
  Half halves[2];
  std::memcpy(halves, &v, sizeof v);
  const Half half = halves[0] + halves[1];
#else
  const Vec half = v;
#endif
#if TESSERA_VECTOR_BYTES >= 32
  Quarter quarters[2];
  std::memcpy(quarters, &half, sizeof half);
  const Quarter q = quarters[0] + quarters[1];
#else
  const Quarter q = half;
#endif
  return (q[0] + q[2]) + (q[1] + q[3]);
}
/// One level of lane_sums: each group of `Group` lanes of a and b is folded to half, groups of a and b alternating.
template <int Group, size_t... Lane>
inline Vec fold(Vec a, Vec b, std::index_sequence<Lane...>) {
  constexpr auto source = [](size_t lane) {
    constexpr size_t kHalf = Group / 2;
    const size_t group = lane / kHalf;
    return static_cast<int>((group % 2) * kWidth + group / 2 * Group + lane % kHalf);
  };
  return __builtin_shufflevector(a, b, source(Lane)...) + __builtin_shufflevector(a, b, (source(Lane) + Group / 2)...);
}
/// Lane i is the sum of the lanes of v[i], i < kWidth. Overwrites v.
template <int Group = static_cast<int>(kWidth)>
inline Vec lane_sums(Vec* v) {
#pragma GCC unroll 8
  for (int i = 0; i < Group / 2; ++i) v[i] = fold<Group>(v[i], v[i + Group / 2], std::make_index_sequence<kWidth>());
  if constexpr (Group > 2) return lane_sums<Group / 2>(v);
  return v[0];
}
inline Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
template <typename V>
inline auto horizontal_max(V v) {
  auto best = v[0];
  for (int64_t i = 1; i < kWidth; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

/// exp with a relative error below 2e-7: 2^n times a degree-6 polynomial on [-ln2/2, ln2/2]. Below -87.3: 0.
inline Vec vexp(Vec x) {
  const Vec low = broadcast(-87.3f), high = broadcast(88.3f);
  const auto underflow = x < low;
  x = x > high ? high : x;
  x = underflow ? low : x;
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n_shifted = x * 1.44269504f + magic;
  const Vec n = n_shifted - magic;
  Vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = broadcast(1.3888889e-3f);
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  IntVec bits;
  std::memcpy(&bits, &n_shifted, sizeof bits);
  IntVec magic_bits;
  std::memcpy(&magic_bits, &magic, sizeof magic_bits);
  const IntVec exponent = (bits - magic_bits + 127) << 23;
  Vec power;
  std::memcpy(&power, &exponent, sizeof power);
  p = p * power;
  return underflow ? Vec{} : p;
}

/// Runs body(offset, vector-count-limited loader) over [0, n): full vectors, then one partial.
template <typename Full, typename Partial>
inline void for_each_vector(int64_t n, const Full& full, const Partial& partial) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) full(i);
  if (i < n) partial(i, n - i);
}

}  // namespace tessera::kernels::TESSERA_ISA
