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

// What one update multiplies with, in the precision of the arithmetic.
struct AdamwNumbers {
  float decay, beta1, beta2, one_minus_beta1, one_minus_beta2, step_size, root_correction, eps;
};
AdamwNumbers adamw_numbers(const AdamwArgs& args);

// (y + E o) SiLU(gate)
struct GatedSum {
  ConstTokens y, o;  // o and E may be absent
  const float* E = nullptr;
  ConstTokens gate;
};
struct GatedSumGradients {
  Tokens y, o, gate;
  float* E = nullptr;
};

// An RMSNorm's weight; absent: rows stay as they are.
struct RowNorm {
  const float* weight = nullptr;
  float eps = 0.0f;
  float* gradient = nullptr;
};

// The end of a model at the asked tokens: rows of the stream, norm, logits over the table's rows, cross entropy.
struct HeadTerms {
  int64_t count = 0;
  ConstTokens stream;
  const int32_t* positions = nullptr;
  const int32_t* targets = nullptr;  // negative: of no account
  RowNorm norm;
  ConstTokens table;
  const float* scale = nullptr;  // of the sum of losses, for the gradients; absent: none are wanted
  // Written: one for each asked token, and what gradients need.
  float* loss = nullptr;
  int32_t* prediction = nullptr;
  Tokens normed, d_logits;
  Tokens d_stream;  // rows at the positions alone
  // Room.
  Matrix rows, logits;
  Tokens d_rows;
};

struct BatchScores {
  double loss = 0.0;
  double accuracy = 0.0;
  int64_t items = 0;
};

// One item of a batch whose tokens lie on the device.
struct BatchItem {
  int64_t first_token = 0;  // in the split
  int32_t n_context = 0, n_key = 0;
  int32_t row = 0;    // of the batch, where it begins
  int32_t seen = 0;   // tokens that are inputs
  int32_t asked = 0;  // asked tokens of the items before
};
struct ItemTokens {
  const void* data = nullptr;
  int32_t token_bytes = 1;
  const BatchItem* items = nullptr;
  int64_t count = 0;               // of the items
  const int64_t* asked = nullptr;  // how many tokens all of them ask, on the device
};
// What a batch is made of on the device; position and mask may be absent. Entries beyond the items' own
// are padding.
struct BatchArrays {
  int64_t rows = 0, asked = 0;
  int32_t* inputs = nullptr;
  int32_t* position = nullptr;
  uint8_t* mask = nullptr;
  int32_t* asked_positions = nullptr;
  int32_t* asked_targets = nullptr;
};

// Tells apart what a model does repeatedly: equal keys mean equal calls with equal operands.
using WorkKey = std::array<int64_t, 8>;

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

  // In which activations are best kept.
  virtual Element activations() const = 0;

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
  // Waits for what is queued and forgets what run() recorded. NCCL's communicator, for one, ends only after
  // every graph that uses it.
  virtual void forget_recorded() {}

  // Work that may run beside what is queued next. What `work` queues starts after everything queued
  // before on this branch and on the main line, and join() makes the main line wait for it. Memory that
  // it reads or writes must not be given back before. Without branches the work is queued at once.
  virtual void branch(int number, const std::function<void()>& work) = 0;
  virtual void join(int number) = 0;
  static constexpr int kBranches = 4;

  // c = op(a) op(b) + addend, with op(x) = x or its transpose; no addend adds nothing. a and b are of
  // one element type. The addend may be c.
  virtual void gemm(bool transpose_a, bool transpose_b, ConstTokens a, ConstTokens b,
                    ConstTokens addend, Tokens c) = 0;

  // y = x / sqrt(mean(x^2) + eps) * weight, row by row.
  virtual void rmsnorm(ConstTokens x, const float* weight, float eps, Tokens y) = 0;
  // dx = the gradient of x, plus the addend where there is one. dx may be dy or the addend.
  virtual void rmsnorm_backward(ConstTokens x, const float* weight, float eps, ConstTokens dy,
                                ConstTokens addend, Tokens dx, float* d_weight) = 0;

  // out = (y + E o) SiLU(gate); without o (and E): y SiLU(gate), which is also SwiGLU.
  virtual void gated_sum(const GatedSum& sum, Tokens out) = 0;
  // d_o and d_E are absent where o is; dy may be d_out.
  virtual void gated_sum_backward(const GatedSum& sum, ConstTokens d_out,
                                  const GatedSumGradients& gradients) = 0;
  // out = rmsnorm(gated_sum).
  virtual void gated_rmsnorm(const GatedSum& sum, const float* weight, float eps, Tokens out) = 0;
  virtual void gated_rmsnorm_backward(const GatedSum& sum, const float* weight, float eps,
                                      ConstTokens d_out, const GatedSumGradients& gradients,
                                      float* d_weight) = 0;

  // What follows is made of the above, and does as much in fewer passes where a backend can. The head's sum for
  // the gradient of its norm may wait for finish_sums().

  // normed = rmsnorm(x), x where there is no norm, 0 where the mask is; y = normed weight^T.
  virtual void norm_linear(ConstTokens x, const RowNorm& norm, const uint8_t* mask,
                           ConstTokens weight, Tokens normed, Tokens y);
  // dx = the gradient of x, for that of normed = dy weight + more, plus the addend. d_normed is room.
  void norm_linear_backward(ConstTokens x, const RowNorm& norm, const uint8_t* mask,
                            ConstTokens weight, ConstTokens dy, ConstTokens more,
                            ConstTokens addend, Tokens d_normed, Tokens dx);
  // gated = the gated sum, normed where there is a norm; out = gated weight^T + addend.
  virtual void gated_linear(const GatedSum& sum, const RowNorm& norm, ConstTokens weight,
                            ConstTokens addend, Tokens gated, Tokens out);
  void gated_linear_backward(const GatedSum& sum, const RowNorm& norm, ConstTokens weight,
                             ConstTokens d_out, const GatedSumGradients& gradients);
  virtual void head(const HeadTerms& terms);
  virtual void finish_sums() {}

  // Fills the arrays of a batch from its items' tokens. With `mask` each item has a line of its own.
  virtual void assemble(const ItemTokens& tokens, const BatchArrays& out) = 0;

  // out[r] = table[index[r]]: token embedding, and picking out the asked positions.
  virtual void gather_rows(ConstTokens table, const int32_t* index, Tokens out) = 0;
  // d_table[index[r]] += d_out[r]
  virtual void scatter_add_rows(ConstTokens d_out, const int32_t* index, Matrix d_table) = 0;

  // target[index[r]] = source[r], each row of the target named at most once.
  virtual void scatter_rows(ConstTokens source, const int32_t* index, Tokens target) = 0;

  // x[r] = mask[r] ? x[r] : 0
  virtual void mask_rows(const uint8_t* mask, Tokens x) = 0;
  // target += source
  virtual void add(ConstTokens source, Tokens target) = 0;
  // Converts where the element types differ, rounding to nearest even.
  virtual void copy(ConstTokens source, Tokens target) = 0;

  // A = -exp(A_log), and d_A_log += dA A.
  virtual void negated_exp(const float* A_log, int64_t count, float* A) = 0;
  virtual void negated_exp_backward(const float* A, const float* dA, int64_t count,
                                    float* d_A_log) = 0;

  // Rotates each head's halves (x1, x2) in place by the angle position[r] theta^(-2 i / head_dim):
  // (x1 cos - x2 sin, x2 cos + x1 sin); `inverse` rotates back, which is the gradient's way.
  virtual void rope(const int32_t* position, int64_t num_heads, double theta, bool inverse,
                    Tokens x) = 0;

  // loss[r] = logsumexp(logits[r]) - logits[r][label[r]]; prediction[r] = the first largest logit;
  // d_logits: the gradient of *scale * sum of loss (absent: not computed). Rows with a negative label
  // count for nothing: loss and gradient 0. d_logits may be logits.
  virtual void cross_entropy(const int32_t* label, const float* scale, ConstMatrix logits,
                             float* loss, int32_t* prediction, Tokens d_logits) = 0;

  // Mean loss over the asked tokens; accuracy, per item the share of them predicted right, mean over
  // the items that ask; and the number of those. Item i owns the entries [offset[i], offset[i + 1]).
  virtual void score_batch(const float* loss, const int32_t* prediction, const int32_t* target,
                           const int32_t* offset, int64_t items, BatchScores* scores) = 0;

  // One AdamW update (decoupled weight decay) of all parameters together. `numbers` is memory of the
  // device. rounded: the new values in bf16, where the backend keeps such; otherwise NULL.
  virtual void adamw(const AdamwNumbers* numbers, int64_t count, const float* gradient,
                     float* value, float* first_moment, float* second_moment,
                     uint16_t* rounded) = 0;

  // out[i] = number i of the key's stream; step and part are read from the device where `at` is given.
  virtual void random_normal(const RandomKey& key, const RandomStep* at, int64_t count,
                             float* out) = 0;
  virtual void random_uniform(const RandomKey& key, const RandomStep* at, int64_t count,
                              float* out) = 0;

  // The ranking loss's pick: per sequence the `count` positions of largest noise, counted from the
  // sequence's start; of equal noise the earlier. Positions whose mask is 0 come after all others
  // (mask may be NULL). Sequence s covers the noise of [offset[s], offset[s+1]); offset is NULL
  // where all are `length` long; otherwise `length` is the number of all tokens. Entries that a short sequence can't fill, and those of sequences
  // beyond the items, are -1. pick is (sequences, count).
  virtual void top_positions(const float* noise, const uint8_t* mask, const int32_t* offset,
                             int64_t items, int64_t sequences, int64_t length, int64_t count,
                             int32_t* pick) = 0;
};

// num_threads 0: as many as the OpenMP runtime gives. Throws ModelError.
std::unique_ptr<Backend> make_cpu_backend(int num_threads = 0);

#ifdef JOINT_RECALL_WITH_CUDA
// With kBf16 activations are kept in bf16. Throws ModelError.
std::unique_ptr<Backend> make_cuda_backend(int device, Precision precision);
int count_gpus();  // that can be used; 0 also without a driver
std::string gpu_name(int device);
#endif

}  // namespace joint_recall
