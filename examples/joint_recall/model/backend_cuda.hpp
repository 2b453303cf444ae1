// The backend for an NVIDIA GPU: cuBLASLt and kernels over rows. The main line and each branch of the work have a
// stream; sums over rows are taken in an order that shapes alone fix.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/backend.hpp"

namespace joint_recall {

class CudaBackend : public Backend {
 public:
  static constexpr int kTickets = 32;

  CudaBackend(int device, Precision precision);
  ~CudaBackend() override;
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  hax_device device() const override { return {HAX_DEVICE_CUDA, device_}; }
  void* stream() const override { return line_->stream; }
  const hax_context* context() const override { return context_; }
  Element activations() const override {
    return precision_ == Precision::kBf16 ? Element::kBf16 : Element::kFp32;
  }

  void* allocate(size_t bytes) override;
  void release(void* memory) override;
  void copy_in(void* target, const void* host, size_t bytes) override;
  void copy_out(void* host, const void* source, size_t bytes) override;
  void copy_within(void* target, const void* source, size_t bytes) override;
  void zero(void* memory, size_t bytes) override;
  void run(const WorkKey& key, const std::function<void()>& work) override;
  bool records() const override { return true; }
  void forget_recorded() override;

  void branch(int number, const std::function<void()>& work) override;
  void join(int number) override;

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
  void norm_linear(ConstTokens x, const RowNorm& norm, const uint8_t* mask, ConstTokens weight,
                   Tokens normed, Tokens y) override;
  void gated_linear(const GatedSum& sum, const RowNorm& norm, ConstTokens weight,
                    ConstTokens addend, Tokens gated, Tokens out) override;
  void head(const HeadTerms& terms) override;
  void finish_sums() override;
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

  // A row of numbers from each block of a kernel, whose sum finish_sums() adds to the target.
  struct BlockSums {
    const float* partial;
    int32_t blocks, stride, columns;
    float* target;
  };

 private:
  // The main line, or a branch.
  struct Line {
    cudaStream_t stream = nullptr;
    cudaEvent_t reached = nullptr;  // for others to wait for
    bool busy = false;              // has work that no other line waits for
    void* workspace = nullptr;      // of matrix products
    float* partial = nullptr;
    int64_t partial_count = 0;
    int32_t* ticket =
        nullptr;  // kTickets: blocks done in kernels that sum over blocks; 0 between kernels
  };
  // Work seen before: run once as it is, which finds all memory it needs, then recorded. Memory made since
  // may have moved its operands.
  struct Recording {
    int64_t allocations = 0;  // made when it was last run or recorded
    cudaGraphExec_t graph = nullptr;
  };
  // Pinned memory through which numbers reach the GPU while the host goes on.
  struct Staging {
    static constexpr size_t kHalf = size_t{4} << 20;
    char* memory = nullptr;
    size_t used = 0;  // of the present half
    int half = 0;
    cudaEvent_t drained[2] = {};
  };
  static constexpr size_t kProductWorkspace = size_t{8} << 20;
  // Everything the choice of a matrix product's algorithm looks at.
  using ProductKey = std::array<int64_t, 16>;

  cudaStream_t here() const { return line_->stream; }
  void record(Recording& recording, const std::function<void()>& work);
  void wait(Line& waiting, Line& other);
  float* partial_sums(
      int64_t count);  // at least that many numbers, valid until the line's next call
  // Room for such rows, valid until finish_sums().
  float* block_sums(int64_t blocks, int64_t columns);
  void add_block_sums(const float* partial, int64_t blocks, int64_t stride, int64_t columns,
                      float* target) {
    sums_.push_back({partial, static_cast<int32_t>(blocks), static_cast<int32_t>(stride),
                     static_cast<int32_t>(columns), target});
  }
  cublasLtMatmulAlgo_t product_algorithm(const ProductKey& key, cublasLtMatmulDesc_t product,
                                         cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                         cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d);

  int device_;
  Precision precision_;
  std::array<Line, kBranches + 1> lines_;
  Line* line_ = &lines_.front();
  cublasLtHandle_t blas_ = nullptr;
  hax_context* context_ = nullptr;
  int64_t allocations_ = 0;
  Staging staging_;
  std::map<WorkKey, Recording> recordings_;
  std::vector<BlockSums> sums_;
  std::vector<std::pair<float*, int64_t>> sum_memory_;  // with the numbers it holds
  size_t sums_taken_ = 0;
  std::map<ProductKey, cublasLtMatmulAlgo_t> algorithms_;
};

// Throws a ModelError that says what was asked for and what there is.
void check_cuda(cudaError_t error, const std::string& what);

}  // namespace joint_recall
