// Everything a model asks of the machine it runs on beside libhax: memory and dense arithmetic. The
// model is written once against this interface.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "hax/hax.h"
#include "model/config.hpp"
#include "model/matrix.hpp"
#include "model/random.hpp"

namespace joint_recall {

struct AdamwArgs {
  double lr = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;
  int64_t step = 1;  // this update's number, from 1 on
};

struct BatchScores {
  double loss = 0.0;
  double accuracy = 0.0;
  int64_t items = 0;
};

// Tells apart what a model does repeatedly: equal keys mean equal calls with equal operands.
using WorkKey = std::array<int64_t, 6>;

// Pointers are memory on device(), except where "host" is said. Work is queued on stream() in the
// order of the calls; copy_out() waits for it. Sums are taken in an order that doesn't depend on
// the number of threads, save inside gemm(), where it depends on nothing else.
//
// Gradients of activations are overwritten, gradients of parameters (d_weight, d_table, d_E) are
// added to.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual hax_device device() const = 0;
  virtual void* stream() const = 0;  // NULL on the CPU
  virtual const hax_context* context() const = 0;

  // Memory, aligned to 256 bytes.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* memory) = 0;
  virtual void copy_in(void* target, const void* host, size_t bytes) = 0;
  virtual void copy_out(void* host, const void* source, size_t bytes) = 0;
  virtual void copy_within(void* target, const void* source, size_t bytes) = 0;
  virtual void zero(void* memory, size_t bytes) = 0;

  // Queues what `work` queues. A backend may record the calls the first times and later replay them
  // without calling `work`; then memory must not be allocated, nor copied from or to the host, within.
  virtual void run(const WorkKey& key, const std::function<void()>& work) = 0;
  // Whether run() records, so that batches of equal shapes are worth some padding.
  virtual bool records() const = 0;

  // c = alpha op(a) op(b) + beta c, with op(x) = x or its transpose; beta = 0 ignores c's content.
  virtual void gemm(bool transpose_a, bool transpose_b, float alpha, ConstMatrix a, ConstMatrix b,
                    float beta, Matrix c) = 0;

  // y = x / sqrt(mean(x^2) + eps) * weight, row by row. x may be y.
  virtual void rmsnorm(ConstMatrix x, const float* weight, float eps, Matrix y) = 0;
  // dx may be dy, and is added to where `accumulate`.
  virtual void rmsnorm_backward(ConstMatrix x, const float* weight, float eps, ConstMatrix dy,
                                bool accumulate, Matrix dx, float* d_weight) = 0;

  // out = (y + E o) SiLU(gate); without o (and E): y SiLU(gate), which is also SwiGLU.
  virtual void gated_sum(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                         Matrix out) = 0;
  // d_o and d_E are absent where o is; dy may be d_out.
  virtual void gated_sum_backward(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                                  ConstMatrix d_out, Matrix dy, Matrix d_o, Matrix d_gate,
                                  float* d_E) = 0;

  // out[r] = table[index[r]]: token embedding, and picking out the asked positions.
  virtual void gather_rows(ConstMatrix table, const int32_t* index, Matrix out) = 0;
  // d_table[index[r]] += d_out[r]
  virtual void scatter_add_rows(ConstMatrix d_out, const int32_t* index, Matrix d_table) = 0;

  // target[index[r]] = source[r], each row of the target named at most once.
  virtual void scatter_rows(ConstMatrix source, const int32_t* index, Matrix target) = 0;

  // x[r] = mask[r] ? x[r] : 0
  virtual void mask_rows(const uint8_t* mask, Matrix x) = 0;
  // target += scale * source
  virtual void add(float scale, ConstMatrix source, Matrix target) = 0;
  virtual void copy(ConstMatrix source, Matrix target) = 0;

  // A = -exp(A_log), and d_A_log += dA A.
  virtual void negated_exp(const float* A_log, int64_t count, float* A) = 0;
  virtual void negated_exp_backward(const float* A, const float* dA, int64_t count,
                                    float* d_A_log) = 0;

  // Rotates each head's halves (x1, x2) in place by the angle position[r] theta^(-2 i / head_dim):
  // (x1 cos - x2 sin, x2 cos + x1 sin); `inverse` rotates back, which is the gradient's way.
  virtual void rope(const int32_t* position, int64_t num_heads, double theta, bool inverse,
                    Matrix x) = 0;

  // loss[r] = logsumexp(logits[r]) - logits[r][label[r]]; prediction[r] = the first largest logit;
  // logits become the gradient of *scale * sum of loss (scale NULL: they are left alone). Rows with a
  // negative label count for nothing: loss and gradient 0.
  virtual void cross_entropy(const int32_t* label, const float* scale, Matrix logits, float* loss,
                             int32_t* prediction) = 0;

  // Mean loss over the asked tokens; accuracy, per item the share of them predicted right, mean over
  // the items that ask; and the number of those. Item i owns the entries [offset[i], offset[i + 1]).
  virtual void score_batch(const float* loss, const int32_t* prediction, const int32_t* target,
                           const int32_t* offset, int64_t items, BatchScores* scores) = 0;

  // One AdamW update (decoupled weight decay) of all parameters together.
  virtual void adamw(const AdamwArgs& args, int64_t count, const float* gradient, float* value,
                     float* first_moment, float* second_moment) = 0;

  // out[i] = number i of the key's stream.
  virtual void random_normal(const RandomKey& key, int64_t count, float* out) = 0;
  virtual void random_uniform(const RandomKey& key, int64_t count, float* out) = 0;

  // The ranking loss's pick: per sequence the `count` positions of largest noise, counted from the
  // sequence's start; of equal noise the earlier. Positions whose mask is 0 come after all others
  // (mask may be NULL). Sequence s covers the noise of [offset[s], offset[s+1]); offset is NULL
  // where all are `length` long. Entries a short sequence can't fill are -1. pick is (sequences,
  // count).
  virtual void top_positions(const float* noise, const uint8_t* mask, const int32_t* offset,
                             int64_t sequences, int64_t length, int64_t count, int32_t* pick) = 0;

  // Rounded to nearest even; bf16 is compact, rows one after the other.
  virtual void to_bf16(ConstMatrix source, uint16_t* target) = 0;
  virtual void from_bf16(const uint16_t* source, Matrix target) = 0;
};

// num_threads 0: as many as the OpenMP runtime gives. Throws ModelError.
std::unique_ptr<Backend> make_cpu_backend(int num_threads = 0);

#ifdef JOINT_RECALL_WITH_CUDA
// With bf16 activations matrix products may round their factors to tf32. Throws ModelError.
std::unique_ptr<Backend> make_cuda_backend(int device, Precision precision);
int count_gpus();  // that can be used; 0 also without a driver
std::string gpu_name(int device);
#endif

}  // namespace joint_recall
