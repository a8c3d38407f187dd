// Raw CPU kernels, compiled once for each instruction set and chosen once at run time. They know no tensors and no
// threads: the functions in kernels/*.h check shapes, split the work over threads and call these on ranges.
//
// Legend: T tokens (rows), D model dim, H query heads, K key/value heads, E head dim, F MLP dim, V vocabulary.
#pragma once

#include <cstdint>

#include "kernels/fp8/format.h"

namespace tessera::kernels {

/// Rows of floats, `stride` apart.
struct RowView {
  float* data = nullptr;
  int64_t stride = 0;
  [[nodiscard]] float* row(int64_t i) const { return data + i * stride; }
};

/// Rows of a cache that lie one behind the other; float32 here, on a device what activations are there.
struct CachedRun {
  const void* rows = nullptr;
  int64_t count = 0;
};

/// What is left of a row of logits x at a temperature T: z = x / T.
struct SoftmaxRow {
  float maximum = 0;   // of x
  double total = 0;    // sum of exp(z - maximum / T)
  float log_prob = 0;  // of the target
  float entropy = 0;   // of the distribution
};

/// One attention problem: the queries of one segment for the query heads that share one key/value head. Keys come from
/// `num_ranges` runs of tokens (ancestors, then the segment itself, which is causal). A key is `key_dim` floats of its head,
/// followed by `shared_dim` floats that all heads share (MLA's rotary part; 0 otherwise).
struct AttentionTask {
  RowView q;                   // first query token, first head of the group; heads lie key_dim + shared_dim apart
  RowView k, shared, v;        // token 0 of the micro-batch
  int64_t key_dim, shared_dim, value_dim;
  int64_t group;               // query heads that share the key/value head
  const int64_t* range_start;  // [num_ranges]
  const int64_t* range_length;
  int64_t num_ranges;
  int64_t num_queries;
  float scale;
  RowView out;                 // first query token, first head of the group; heads lie value_dim apart
  float* lse;                  // [group] rows of lse_stride, at the first query token: log-sum-exp of scaled scores
  int64_t lse_stride;
  // backward only
  RowView d_out;               // as out
  RowView d_q;                 // as q; written
  RowView d_k, d_shared, d_v;  // as k, shared, v; added to
};

/// What an AdamW update is the same for: gradients are multiplied by gradient_scale, weights by keep = 1 - lr * decay.
struct AdamWFactors {
  float beta1, beta2, eps, gradient_scale, keep;
  float step_size, inverse_root;  // lr / (1 - beta1^t), (1 - beta2^t)^-1/2
};

/// Stochastic rounding of moments: the key of a tensor and step, and which of its elements the range begins with.
struct MomentNoise {
  uint64_t key = 0;
  int64_t first = 0;
};

struct KernelTable {
  const char* name;

  /// y = x * rstd * w with rstd = (mean(x^2) + eps)^-1/2; `residual`, if given, is added to x first and the sum stored in
  /// `sum` (which may be x itself).
  void (*rms_norm)(const float* x, const float* residual, const float* w, float eps, int64_t rows, int64_t dim,
                   float* sum, float* y, float* rstd);
  /// dx (+)= gradient of the above; dw += its share over these rows. `add_to_dx`: dx already holds a gradient.
  void (*rms_norm_backward)(const float* dy, const float* x, const float* w, const float* rstd, int64_t rows,
                            int64_t dim, bool add_to_dx, float* dx, float* dw);
  /// Rotates `dim` floats of `heads` heads of each row in place; heads lie `head_stride` apart; cos, sin: [positions,
  /// dim/2]; `sign` -1 inverts. The angles' pairs are (i, i + dim/2), or neighbours (2i, 2i + 1) with `pairs`.
  void (*rope)(float* x, int64_t row_stride, int64_t rows, int64_t heads, int64_t head_stride, int64_t dim, bool pairs,
               const int32_t* positions, const float* cos, const float* sin, float sign);
  /// out = silu(gate) * up; gate_up: [rows, 2F], gate first.
  void (*swiglu)(const float* gate_up, int64_t rows, int64_t dim, float* out);
  void (*swiglu_backward)(const float* d_out, const float* gate_up, int64_t rows, int64_t dim, float* d_gate_up);
  /// y = 1 / (1 + exp(-x)); an element's result does not depend on where it stands.
  void (*sigmoid)(const float* x, int64_t count, float* y);
  /// Turns rows of logits into gradients weight * (softmax - onehot) in place; log_probs[i] = log p(target).
  void (*cross_entropy)(float* logits, int64_t rows, int64_t vocabulary, const int32_t* targets, const float* weights,
                        bool want_gradient, float* log_probs);
  /// The same in two steps, for weights that depend on the log-probabilities: what a row needs, with logits as they are,
  /// and the gradients weight / T * (softmax(x / T) - onehot) in their place.
  void (*softmax_rows)(const float* logits, int64_t rows, int64_t vocabulary, const int32_t* targets, float inverse_temperature,
                       SoftmaxRow* result);
  void (*softmax_gradient)(float* logits, int64_t rows, int64_t vocabulary, const int32_t* targets, const float* weights,
                           float inverse_temperature, const SoftmaxRow* softmax);
  /// exp((x - maximum) / T), and its sums over blocks of kSamplingBlock.
  void (*exponentials)(const float* x, int64_t count, float maximum, float inverse_temperature, float* out, double* block_sums);
  void (*attention)(const AttentionTask& task, float* scratch);
  void (*attention_backward)(const AttentionTask& task, float* scratch);
  /// One query token, `group` heads [group, qk_dim] that share keys and values: in each cached row, `stride` floats long, the
  /// key from key_begin and the value from value_begin. out: [group, v_dim]; scratch: attention_decode_scratch_floats.
  void (*attention_decode)(const float* q, int64_t group, int64_t qk_dim, const CachedRun* runs, int64_t num_runs, int64_t stride,
                           int64_t key_begin, int64_t value_begin, int64_t v_dim, float scale, float* out, float* scratch);
  /// y[m, n] = sum_k x[m, k] w[n, k] for n in [n_begin, n_end): few rows m, weights read once.
  void (*few_rows_product)(const float* x, int64_t rows, int64_t k, const float* w, int64_t n_begin, int64_t n_end,
                           float* y, int64_t ldy);
  /// c[m, n] = sum_k a(i, k) b[k, n] on one thread; a(i, k) = a[i * a_row + k * a_col], rows of b and c contiguous.
  void (*small_product)(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                        int64_t ldb, float* c, int64_t ldc, bool accumulate);
  /// y += factor * x
  void (*add_scaled)(float factor, const float* x, float* y, int64_t count);
  float (*dot)(const float* x, const float* y, int64_t count);
  double (*sum_of_squares)(const float* x, int64_t count);
  /// Decoupled AdamW (Loshchilov & Hutter 2019) on a flat range; moments in float32, or in bfloat16, to the nearest or with noise.
  void (*adamw)(const AdamWFactors& factors, float* weight, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t count);
  void (*adamw_bfloat16)(const AdamWFactors& factors, float* weight, const float* gradient, uint16_t* exp_avg, uint16_t* exp_avg_sq,
                         int64_t count, const MomentNoise* noise);
  /// To the nearest; `codes` and `values`, which may be x, where wanted.
  void (*round_bfloat16)(const float* x, int64_t count, uint16_t* codes, float* values);
  void (*expand_bfloat16)(const uint16_t* codes, int64_t count, float* values);

  // 8-bit floating point; rows `stride` apart, the first at a tile's corner. The same bits on every instruction set.
  /// Tiles of whole numbers of rows and columns, none 0. `sink.values` may be x.
  void (*fp8_quantize)(const fp8::Scheme& scheme, const float* x, int64_t stride, int64_t rows, int64_t columns, const fp8::Sink& sink);
  /// The largest finite magnitude, and the scale of a tile that has it.
  float (*fp8_largest)(const float* x, int64_t stride, int64_t rows, int64_t columns);
  float (*fp8_scale)(const fp8::Scheme& scheme, float largest);
  /// With a scale from elsewhere.
  void (*fp8_quantize_with)(fp8::Format format, float scale, const float* x, int64_t stride, int64_t rows, int64_t columns,
                            const fp8::Sink& sink);
  void (*fp8_dequantize)(fp8::Format format, fp8::Tile tile, const uint8_t* codes, int64_t code_stride, const float* scales,
                         int64_t scale_stride, int64_t rows, int64_t columns, float* values, int64_t value_stride);
};

constexpr int64_t kSamplingBlock = 1024;

/// Floats of scratch that attention (blocks of scores, packed keys and values) needs for `keys` keys.
int64_t attention_scratch_floats(int64_t keys, int64_t qk_dim, int64_t value_dim);

int64_t attention_decode_scratch_floats(int64_t group, int64_t keys);

/// The best table this processor runs.
const KernelTable& kernel_table();

namespace isa_avx512 { const KernelTable& table(); }
namespace isa_avx2 { const KernelTable& table(); }
namespace isa_generic { const KernelTable& table(); }

}  // namespace tessera::kernels
