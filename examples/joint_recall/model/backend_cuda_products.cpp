// Matrix products by cuBLASLt, whose algorithm is chosen once for each shape.
#include <fmt/format.h>

#include <bit>

#include "model/backend_cuda.hpp"
#include "model/error.hpp"

namespace joint_recall {
namespace {

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw ModelError(fmt::format("cuBLASLt: {}: {}", what, cublasLtGetStatusString(status)));
}

cudaDataType_t type_of(Element element) {
  return element == Element::kFp32 ? CUDA_R_32F : CUDA_R_16BF;
}

// cuBLASLt counts columns first, which makes every matrix its transpose.
class Layout {
 public:
  explicit Layout(ConstTokens m) {
    check_blas(
        cublasLtMatrixLayoutCreate(&layout_, type_of(m.element), static_cast<uint64_t>(m.columns),
                                   static_cast<uint64_t>(m.rows), m.stride),
        "describing a matrix");
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  operator cublasLtMatrixLayout_t() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

class Product {
 public:
  Product(cublasComputeType_t compute, bool transpose_a, bool transpose_b) {
    check_blas(cublasLtMatmulDescCreate(&product_, compute, CUDA_R_32F), "describing a product");
    const cublasOperation_t a = transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t b = transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtMatmulDescSetAttribute(product_, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof a);
    cublasLtMatmulDescSetAttribute(product_, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof b);
  }
  ~Product() { cublasLtMatmulDescDestroy(product_); }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
  operator cublasLtMatmulDesc_t() const { return product_; }

 private:
  cublasLtMatmulDesc_t product_ = nullptr;
};

// Bytes that an address is a multiple of, 256 at most.
uint32_t alignment_of(const void* memory) {
  const auto address = std::bit_cast<uintptr_t>(memory) | 256u;
  return static_cast<uint32_t>(address & (~address + 1));
}

}  // namespace

cublasLtMatmulAlgo_t CudaBackend::product_algorithm(
    const ProductKey& key, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  const auto known = algorithms_.find(key);
  if (known != algorithms_.end()) return known->second;
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&preference), "choosing an algorithm");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kProductWorkspace});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(key[12]));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(key[13]));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(key[14]));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(key[15]));
  cublasLtMatmulHeuristicResult_t result = {};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(blas_, product, a, b, c, d, preference, 1, &result, &found);
  cublasLtMatmulPreferenceDestroy(preference);
  check_blas(status, "choosing an algorithm");
  check_blas(found == 1 ? result.state : CUBLAS_STATUS_NOT_SUPPORTED, "choosing an algorithm");
  algorithms_[key] = result.algo;
  return result.algo;
}

void CudaBackend::gemm(bool transpose_a, bool transpose_b, ConstTokens a, ConstTokens b,
                       ConstTokens addend, Tokens c) {
  if (c.rows == 0 || c.columns == 0) return;
  const int64_t inner = transpose_a ? a.rows : a.columns;
  const bool adds = addend.present();
  if (inner == 0) {
    if (adds && addend.data != c.data) copy(addend, c);
    if (!adds) {
      const auto width = static_cast<size_t>(bytes_of(c.element));
      check_cuda(cudaMemset2DAsync(c.data, static_cast<size_t>(c.stride) * width, 0,
                                   static_cast<size_t>(c.columns) * width,
                                   static_cast<size_t>(c.rows), here()),
                 "clearing memory");
    }
    return;
  }
  const ConstTokens added = adds ? addend : ConstTokens(c);
  const bool fp32 = a.element == Element::kFp32;
  // c^T = op(b)^T op(a)^T
  const Product product(fp32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F, transpose_b,
                        transpose_a);
  const Layout left(b), right(a), third(added), out(c);
  const ProductKey key = {transpose_a,
                          transpose_b,
                          c.rows,
                          c.columns,
                          inner,
                          a.stride,
                          b.stride,
                          c.stride,
                          added.stride,
                          static_cast<int64_t>(a.element),
                          static_cast<int64_t>(c.element),
                          adds,
                          alignment_of(b.data),
                          alignment_of(a.data),
                          alignment_of(added.data),
                          alignment_of(c.data)};
  const cublasLtMatmulAlgo_t algorithm = product_algorithm(key, product, left, right, third, out);
  if (line_->workspace == nullptr) line_->workspace = allocate(kProductWorkspace);
  const float alpha = 1.0f, beta = adds ? 1.0f : 0.0f;
  check_blas(
      cublasLtMatmul(blas_, product, &alpha, b.data, left, a.data, right, &beta, added.data, third,
                     c.data, out, &algorithm, line_->workspace, kProductWorkspace, here()),
      "matrix product");
}

}  // namespace joint_recall
