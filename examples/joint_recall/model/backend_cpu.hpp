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

  void* allocate(size_t bytes) override;
  void release(void* memory) override;
  void copy_in(void* target, const void* host, size_t bytes) override;
  void copy_out(void* host, const void* source, size_t bytes) override;
  void copy_within(void* target, const void* source, size_t bytes) override;
  void zero(void* memory, size_t bytes) override;
  void run(const WorkKey& key, const std::function<void()>& work) override;
  bool records() const override { return false; }

  void gemm(bool transpose_a, bool transpose_b, float alpha, ConstMatrix a, ConstMatrix b,
            float beta, Matrix c) override;
  void rmsnorm(ConstMatrix x, const float* weight, float eps, Matrix y) override;
  void rmsnorm_backward(ConstMatrix x, const float* weight, float eps, ConstMatrix dy,
                        bool accumulate, Matrix dx, float* d_weight) override;
  void gated_sum(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                 Matrix out) override;
  void gated_sum_backward(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                          ConstMatrix d_out, Matrix dy, Matrix d_o, Matrix d_gate,
                          float* d_E) override;
  void gather_rows(ConstMatrix table, const int32_t* index, Matrix out) override;
  void scatter_add_rows(ConstMatrix d_out, const int32_t* index, Matrix d_table) override;
  void scatter_rows(ConstMatrix source, const int32_t* index, Matrix target) override;
  void mask_rows(const uint8_t* mask, Matrix x) override;
  void add(float scale, ConstMatrix source, Matrix target) override;
  void copy(ConstMatrix source, Matrix target) override;
  void negated_exp(const float* A_log, int64_t count, float* A) override;
  void negated_exp_backward(const float* A, const float* dA, int64_t count,
                            float* d_A_log) override;
  void rope(const int32_t* position, int64_t num_heads, double theta, bool inverse,
            Matrix x) override;
  void cross_entropy(const int32_t* label, const float* scale, Matrix logits, float* loss,
                     int32_t* prediction) override;
  void score_batch(const float* loss, const int32_t* prediction, const int32_t* target,
                   const int32_t* offset, int64_t items, BatchScores* scores) override;
  void adamw(const AdamwArgs& args, int64_t count, const float* gradient, float* value,
             float* first_moment, float* second_moment) override;
  void random_normal(const RandomKey& key, int64_t count, float* out) override;
  void random_uniform(const RandomKey& key, int64_t count, float* out) override;
  void top_positions(const float* noise, const uint8_t* mask, const int32_t* offset,
                     int64_t sequences, int64_t length, int64_t count, int32_t* pick) override;
  void to_bf16(ConstMatrix source, uint16_t* target) override;
  void from_bf16(const uint16_t* source, Matrix target) override;

 private:
  int num_threads_;
  hax_context* context_ = nullptr;
  std::vector<float> scratch_;  // partial sums
};

}  // namespace joint_recall
