// RMSNorm, RoPE, SwiGLU, cross-entropy, AdamW on ranges of rows. Included by isa.cpp only.
#pragma once

#include <cmath>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"
#include "kernels/rounding.h"

namespace tessera::kernels::TESSERA_ISA {

inline void rms_norm(const float* x, const float* residual, const float* w, float eps, int64_t rows, int64_t dim,
                     float* sum, float* y, float* rstd) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* xr = x + r * dim;
    if (residual != nullptr) {
      float* sr = sum + r * dim;
      const float* rr = residual + r * dim;
      for_each_vector(dim, [&](int64_t i) { store(sr + i, load(xr + i) + load(rr + i)); },
                      [&](int64_t i, int64_t n) {
                        store_partial(sr + i, load_partial(xr + i, n) + load_partial(rr + i, n), n);
                      });
      xr = sr;
    }
    Vec squares{}, squares2{};
    int64_t i = 0;
    for (; i + 2 * kWidth <= dim; i += 2 * kWidth) {
      const Vec a = load(xr + i), b = load(xr + i + kWidth);
      squares += a * a;
      squares2 += b * b;
    }
    for (; i + kWidth <= dim; i += kWidth) squares += load(xr + i) * load(xr + i);
    if (i < dim) {
      const Vec a = load_partial(xr + i, dim - i);
      squares2 += a * a;
    }
    const float scale = 1.0f / std::sqrt(horizontal_sum(squares + squares2) / static_cast<float>(dim) + eps);
    if (rstd != nullptr) rstd[r] = scale;
    float* yr = y + r * dim;
    for_each_vector(dim, [&](int64_t j) { store(yr + j, load(xr + j) * scale * load(w + j)); },
                    [&](int64_t j, int64_t n) {
                      store_partial(yr + j, load_partial(xr + j, n) * scale * load_partial(w + j, n), n);
                    });
  }
}

inline void rms_norm_backward(const float* dy, const float* x, const float* w, const float* rstd, int64_t rows,
                              int64_t dim, bool add_to_dx, float* dx, float* dw) {
  for (int64_t r = 0; r < rows; ++r) {
    const float *dyr = dy + r * dim, *xr = x + r * dim;
    float* dxr = dx + r * dim;
    const float scale = rstd[r];
    Vec dot{};
    const auto accumulate = [&](Vec g, Vec v, Vec weight) { dot += g * weight * v; };
    for_each_vector(dim, [&](int64_t i) { accumulate(load(dyr + i), load(xr + i), load(w + i)); },
                    [&](int64_t i, int64_t n) {
                      accumulate(load_partial(dyr + i, n), load_partial(xr + i, n), load_partial(w + i, n));
                    });
    const float correction = horizontal_sum(dot) * scale * scale / static_cast<float>(dim);
    const auto gradient = [&](Vec g, Vec v, Vec weight) { return scale * (g * weight - v * correction); };
    for_each_vector(
        dim,
        [&](int64_t i) {
          const Vec g = load(dyr + i), v = load(xr + i);
          Vec d = gradient(g, v, load(w + i));
          if (add_to_dx) d += load(dxr + i);
          store(dxr + i, d);
          if (dw != nullptr) store(dw + i, load(dw + i) + g * v * scale);
        },
        [&](int64_t i, int64_t n) {
          const Vec g = load_partial(dyr + i, n), v = load_partial(xr + i, n);
          Vec d = gradient(g, v, load_partial(w + i, n));
          if (add_to_dx) d += load_partial(dxr + i, n);
          store_partial(dxr + i, d, n);
          if (dw != nullptr) store_partial(dw + i, load_partial(dw + i, n) + g * v * scale, n);
        });
  }
}

inline void rotate_halves(float* a, float* b, const float* c, const float* s, float sign, int64_t half) {
  for_each_vector(half,
                  [&](int64_t i) {
                    const Vec u = load(a + i), v = load(b + i), ci = load(c + i), si = load(s + i) * sign;
                    store(a + i, u * ci - v * si);
                    store(b + i, v * ci + u * si);
                  },
                  [&](int64_t i, int64_t n) {
                    const Vec u = load_partial(a + i, n), v = load_partial(b + i, n);
                    const Vec ci = load_partial(c + i, n), si = load_partial(s + i, n) * sign;
                    store_partial(a + i, u * ci - v * si, n);
                    store_partial(b + i, v * ci + u * si, n);
                  });
}

inline void rotate_pairs(float* x, const float* c, const float* s, float sign, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float u = x[2 * i], v = x[2 * i + 1], si = s[i] * sign;
    x[2 * i] = u * c[i] - v * si;
    x[2 * i + 1] = v * c[i] + u * si;
  }
}

inline void rope(float* x, int64_t row_stride, int64_t rows, int64_t heads, int64_t head_stride, int64_t dim, bool pairs,
                 const int32_t* positions, const float* cos, const float* sin, float sign) {
  const int64_t half = dim / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const float* c = cos + positions[r] * half;
    const float* s = sin + positions[r] * half;
    for (int64_t h = 0; h < heads; ++h) {
      float* head = x + r * row_stride + h * head_stride;
      if (pairs) {
        rotate_pairs(head, c, s, sign, half);
      } else {
        rotate_halves(head, head + half, c, s, sign, half);
      }
    }
  }
}

inline void add_scaled(float factor, const float* x, float* y, int64_t count) {
  for_each_vector(count, [&](int64_t i) { store(y + i, load(y + i) + factor * load(x + i)); },
                  [&](int64_t i, int64_t n) { store_partial(y + i, load_partial(y + i, n) + factor * load_partial(x + i, n), n); });
}

inline float dot(const float* x, const float* y, int64_t count) {
  Vec sum{};
  for_each_vector(count, [&](int64_t i) { sum += load(x + i) * load(y + i); },
                  [&](int64_t i, int64_t n) { sum += load_partial(x + i, n) * load_partial(y + i, n); });
  return horizontal_sum(sum);
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + vexp(-x)); }

inline void swiglu(const float* gate_up, int64_t rows, int64_t dim, float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const float *gate = gate_up + r * 2 * dim, *up = gate + dim;
    float* o = out + r * dim;
    for_each_vector(dim,
                    [&](int64_t i) {
                      const Vec g = load(gate + i);
                      store(o + i, g * sigmoid(g) * load(up + i));
                    },
                    [&](int64_t i, int64_t n) {
                      const Vec g = load_partial(gate + i, n);
                      store_partial(o + i, g * sigmoid(g) * load_partial(up + i, n), n);
                    });
  }
}

inline void swiglu_backward(const float* d_out, const float* gate_up, int64_t rows, int64_t dim, float* d_gate_up) {
  for (int64_t r = 0; r < rows; ++r) {
    const float *gate = gate_up + r * 2 * dim, *up = gate + dim, *d = d_out + r * dim;
    float *d_gate = d_gate_up + r * 2 * dim, *d_up = d_gate + dim;
    const auto gate_gradient = [](Vec g, Vec u, Vec go, Vec s) { return go * u * s * (1.0f + g * (1.0f - s)); };
    for_each_vector(dim,
                    [&](int64_t i) {
                      const Vec g = load(gate + i), u = load(up + i), go = load(d + i), s = sigmoid(g);
                      store(d_gate + i, gate_gradient(g, u, go, s));
                      store(d_up + i, go * g * s);
                    },
                    [&](int64_t i, int64_t n) {
                      const Vec g = load_partial(gate + i, n), u = load_partial(up + i, n);
                      const Vec go = load_partial(d + i, n), s = sigmoid(g);
                      store_partial(d_gate + i, gate_gradient(g, u, go, s), n);
                      store_partial(d_up + i, go * g * s, n);
                    });
  }
}

inline void sigmoid(const float* x, int64_t count, float* y) {
  const auto of = [](Vec v) { return 1.0f / (1.0f + vexp(-v)); };
  for_each_vector(
      count, [&](int64_t i) { store(y + i, of(load(x + i))); },
      [&](int64_t i, int64_t n) { store_partial(y + i, of(load_partial(x + i, n)), n); });
}

inline float maximum_of(const float* x, int64_t count) {
  const int64_t whole = count / kWidth * kWidth;
  float maximum = x[0];
  if (whole > 0) {
    Vec best = load(x);
    for (int64_t i = kWidth; i < whole; i += kWidth) best = vmax(best, load(x + i));
    maximum = horizontal_max(best);
  }
  for (int64_t i = whole; i < count; ++i) maximum = x[i] > maximum ? x[i] : maximum;
  return maximum;
}

inline void cross_entropy(float* logits, int64_t rows, int64_t vocabulary, const int32_t* targets,
                          const float* weights, bool want_gradient, float* log_probs) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = logits + r * vocabulary;
    const int64_t whole = vocabulary / kWidth * kWidth;
    const float maximum = maximum_of(row, vocabulary);
    const float target_logit = row[targets[r]];
    // Sums of up to a few hundred thousand terms: vector partial sums, folded into a double every block.
    double total = 0;
    constexpr int64_t kBlock = 64 * kWidth;
    for (int64_t begin = 0; begin < whole; begin += kBlock) {
      const int64_t end = begin + kBlock < whole ? begin + kBlock : whole;
      Vec sum{};
      for (int64_t i = begin; i < end; i += kWidth) {
        const Vec e = vexp(load(row + i) - maximum);
        if (want_gradient) store(row + i, e);
        sum += e;
      }
      total += horizontal_sum(sum);
    }
    for (int64_t i = whole; i < vocabulary; ++i) {
      const float e = std::exp(row[i] - maximum);
      if (want_gradient) row[i] = e;
      total += e;
    }
    log_probs[r] = static_cast<float>(static_cast<double>(target_logit) - maximum - std::log(total));
    if (!want_gradient) continue;
    const float factor = static_cast<float>(weights[r] / total);
    for (int64_t i = 0; i < whole; i += kWidth) store(row + i, load(row + i) * factor);
    for (int64_t i = whole; i < vocabulary; ++i) row[i] *= factor;
    row[targets[r]] -= weights[r];
  }
}

inline void softmax_rows(const float* logits, int64_t rows, int64_t vocabulary, const int32_t* targets, float inverse_temperature,
                         SoftmaxRow* result) {
  constexpr int64_t kBlock = 64 * kWidth;
  const int64_t whole = vocabulary / kWidth * kWidth;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = logits + r * vocabulary;
    const float maximum = maximum_of(row, vocabulary);
    double total = 0, weighted = 0;  // sums of e^d and of e^d d, d = (x - maximum) / T
    for (int64_t begin = 0; begin < whole; begin += kBlock) {
      const int64_t end = begin + kBlock < whole ? begin + kBlock : whole;
      Vec sum{}, weighted_sum{};
      for (int64_t i = begin; i < end; i += kWidth) {
        const Vec d = (load(row + i) - maximum) * inverse_temperature, e = vexp(d);
        sum += e;
        weighted_sum += e > Vec{} ? e * d : Vec{};
      }
      total += horizontal_sum(sum);
      weighted += horizontal_sum(weighted_sum);
    }
    for (int64_t i = whole; i < vocabulary; ++i) {
      const float d = (row[i] - maximum) * inverse_temperature, e = std::exp(d);
      total += e;
      if (e > 0) weighted += e * d;
    }
    const double log_total = std::log(total);
    result[r] = {maximum, total,
                 static_cast<float>((static_cast<double>(row[targets[r]]) - maximum) * inverse_temperature - log_total),
                 static_cast<float>(log_total - weighted / total)};
  }
}

inline void softmax_gradient(float* logits, int64_t rows, int64_t vocabulary, const int32_t* targets, const float* weights,
                             float inverse_temperature, const SoftmaxRow* softmax) {
  const int64_t whole = vocabulary / kWidth * kWidth;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = logits + r * vocabulary;
    const float maximum = softmax[r].maximum, weight = weights[r] * inverse_temperature;
    const float factor = static_cast<float>(weight / softmax[r].total);
    for (int64_t i = 0; i < whole; i += kWidth) store(row + i, vexp((load(row + i) - maximum) * inverse_temperature) * factor);
    for (int64_t i = whole; i < vocabulary; ++i) row[i] = std::exp((row[i] - maximum) * inverse_temperature) * factor;
    row[targets[r]] -= weight;
  }
}

inline void exponentials(const float* x, int64_t count, float maximum, float inverse_temperature, float* out, double* block_sums) {
  for (int64_t begin = 0; begin < count; begin += kSamplingBlock) {
    const int64_t end = begin + kSamplingBlock < count ? begin + kSamplingBlock : count;
    const int64_t whole = begin + (end - begin) / kWidth * kWidth;
    Vec sum{};
    for (int64_t i = begin; i < whole; i += kWidth) {
      const Vec e = vexp((load(x + i) - maximum) * inverse_temperature);
      store(out + i, e);
      sum += e;
    }
    double total = horizontal_sum(sum);
    for (int64_t i = whole; i < end; ++i) total += out[i] = std::exp((x[i] - maximum) * inverse_temperature);
    block_sums[begin / kSamplingBlock] = total;
  }
}

inline double sum_of_squares(const float* x, int64_t count) {
  double total = 0;
  constexpr int64_t kBlock = 256 * kWidth;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Vec a{}, b{};
    int64_t i = begin;
    for (; i + 2 * kWidth <= end; i += 2 * kWidth) {
      const Vec u = load(x + i), v = load(x + i + kWidth);
      a += u * u;
      b += v * v;
    }
    for (; i < end; i += kWidth) {
      const Vec u = load_partial(x + i, end - i < kWidth ? end - i : kWidth);
      a += u * u;
    }
    total += horizontal_sum(a + b);
  }
  return total;
}

/// `load(moments, i)` and `save(moments, i, first, second)`: how the moments are kept.
template <typename Moment, typename Load, typename Save>
inline void adamw_range(const AdamWFactors& f, float* weight, const float* gradient, Moment* exp_avg, Moment* exp_avg_sq, int64_t count,
                        const Load& load, const Save& save) {
  const float one_minus_beta1 = 1.0f - f.beta1, one_minus_beta2 = 1.0f - f.beta2;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * f.gradient_scale;
    const float m = f.beta1 * load(exp_avg[i]) + one_minus_beta1 * g;
    const float v = f.beta2 * load(exp_avg_sq[i]) + one_minus_beta2 * (g * g);
    save(i, m, v);
    weight[i] = weight[i] * f.keep - f.step_size * m / (std::sqrt(v) * f.inverse_root + f.eps);
  }
}

inline void adamw(const AdamWFactors& factors, float* weight, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t count) {
  adamw_range(factors, weight, gradient, exp_avg, exp_avg_sq, count, [](float x) { return x; }, [=](int64_t i, float m, float v) {
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
  });
}

inline void adamw_bfloat16(const AdamWFactors& factors, float* weight, const float* gradient, uint16_t* exp_avg, uint16_t* exp_avg_sq, int64_t count,
                           const MomentNoise* noise) {
  const auto load = [](uint16_t x) { return from_bfloat16(x); };
  if (noise == nullptr) {
    adamw_range(factors, weight, gradient, exp_avg, exp_avg_sq, count, load, [=](int64_t i, float m, float v) {
      exp_avg[i] = to_bfloat16(m);
      exp_avg_sq[i] = to_bfloat16(v);
    });
  } else {
    adamw_range(factors, weight, gradient, exp_avg, exp_avg_sq, count, load,
                [=, key = noise->key, first = static_cast<uint64_t>(noise->first)](int64_t i, float m, float v) {
                  const uint32_t bits = rounding_noise(key, first + static_cast<uint64_t>(i));
                  exp_avg[i] = to_bfloat16_stochastic(m, bits);
                  exp_avg_sq[i] = to_bfloat16_stochastic(v, bits >> 16);
                });
  }
}

/// Rounds to bfloat16; `codes` and `values`, which may be x, where wanted.
inline void round_bfloat16(const float* x, int64_t count, uint16_t* codes, float* values) {
  if (codes != nullptr) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) codes[i] = to_bfloat16(x[i]);
  }
  if (values != nullptr) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) values[i] = from_bfloat16(to_bfloat16(x[i]));
  }
}

inline void expand_bfloat16(const uint16_t* codes, int64_t count, float* values) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) values[i] = from_bfloat16(codes[i]);
}

}  // namespace tessera::kernels::TESSERA_ISA
