// The backend for a CPU: OpenMP loops and CBLAS.
#pragma once

#include <vector>

#include "model/backend.hpp"

namespace joint_recall {

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(int num_threads);
  ~CpuBackend() override;
  CpuBackend(const CpuBackend&) = delete;
  CpuBackend& operator=(const CpuBackend&) = delete;

  hax_device device() const override { return {HAX_DEVICE_CPU, 0}; }
  void* stream() const override { return nullptr; }
  const hax_context* context() const override { return context_; }
  Element activations() const override { return Element::kFp32; }

  void* allocate(size_t bytes) override;
  void release(void* memory) override;
  void copy_in(void* target, const void* host, size_t bytes) override;
  void copy_out(void* host, const void* source, size_t bytes) override;
  void copy_within(void* target, const void* source, size_t bytes) override;
  void zero(void* memory, size_t bytes) override;
  void run(const WorkKey& key, const std::function<void()>& work) override;
  bool records() const override { return false; }

  void branch(int, const std::function<void()>& work) override { work(); }
  void join(int) override {}

  void gemm(bool transpose_a, bool transpose_b, ConstTokens a, ConstTokens b, ConstTokens addend,
            Tokens c) override;
  void rmsnorm(ConstTokens x, const float* weight, float eps, Tokens y) override;
  void rmsnorm_backward(ConstTokens x, const float* weight, float eps, ConstTokens dy,
                        ConstTokens addend, Tokens dx, float* d_weight) override;
  void gated_sum(const GatedSum& sum, Tokens out) override;
  void gated_sum_backward(const GatedSum& sum, ConstTokens d_out,
                          const GatedSumGradients& gradients) override;
  void gated_rmsnorm(const GatedSum& sum, const float* weight, float eps, Tokens out) override;
  void gated_rmsnorm_backward(const GatedSum& sum, const float* weight, float eps,
                              ConstTokens d_out, const GatedSumGradients& gradients,
                              float* d_weight) override;
  void assemble(const ItemTokens& tokens, const BatchArrays& out) override;
  void gather_rows(ConstTokens table, const int32_t* index, Tokens out) override;
  void scatter_add_rows(ConstTokens d_out, const int32_t* index, Matrix d_table) override;
  void scatter_rows(ConstTokens source, const int32_t* index, Tokens target) override;
  void mask_rows(const uint8_t* mask, Tokens x) override;
  void add(ConstTokens source, Tokens target) override;
  void copy(ConstTokens source, Tokens target) override;
  void negated_exp(const float* A_log, int64_t count, float* A) override;
  void negated_exp_backward(const float* A, const float* dA, int64_t count,
                            float* d_A_log) override;
  void rope(const int32_t* position, int64_t num_heads, double theta, bool inverse,
            Tokens x) override;
  void cross_entropy(const int32_t* label, const float* scale, ConstMatrix logits, float* loss,
                     int32_t* prediction, Tokens d_logits) override;
  void score_batch(const float* loss, const int32_t* prediction, const int32_t* target,
                   const int32_t* offset, int64_t items, BatchScores* scores) override;
  void adamw(const AdamwNumbers* numbers, int64_t count, const float* gradient, float* value,
             float* first_moment, float* second_moment, uint16_t* rounded) override;
  void random_normal(const RandomKey& key, const RandomStep* at, int64_t count,
                     float* out) override;
  void random_uniform(const RandomKey& key, const RandomStep* at, int64_t count,
                      float* out) override;
  void top_positions(const float* noise, const uint8_t* mask, const int32_t* offset, int64_t items,
                     int64_t sequences, int64_t length, int64_t count, int32_t* pick) override;

 private:
  // The gated sum itself, for norms over it; valid until the next call.
  Matrix gated(const GatedSum& sum);

  int num_threads_;
  hax_context* context_ = nullptr;
  std::vector<float> scratch_;  // partial sums
  std::vector<float> gated_;
};

}  // namespace joint_recall
