// Memory, matrix products and what needs no kernel.
#include "model/backend_cuda.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "model/error.hpp"

namespace joint_recall {
namespace {

constexpr size_t kBlasWorkspace = size_t{32} << 20;  // what cuBLAS advises for Hopper

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw ModelError(fmt::format("cuBLAS: {}: {}", what, cublasGetStatusString(status)));
}

double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

void check_cuda(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  std::string text = fmt::format("CUDA: {}: {}", what, cudaGetErrorString(error));
  size_t free_bytes = 0, total = 0;
  if (error == cudaErrorMemoryAllocation && cudaMemGetInfo(&free_bytes, &total) == cudaSuccess) {
    text += fmt::format(": {:.1f} of {:.1f} MiB are free", mib(free_bytes), mib(total));
  }
  throw ModelError(text);
}

std::unique_ptr<Backend> make_cuda_backend(int device, Precision precision) {
  return std::make_unique<CudaBackend>(device, precision);
}

int count_gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string gpu_name(int device) {
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, device), "asking for the GPU's name");
  return properties.name;
}

CudaBackend::CudaBackend(int device, Precision precision) : device_(device) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    throw ModelError(fmt::format("cuda:{} was asked for, but there is no usable GPU: {}", device,
                                 cudaGetErrorString(error)));
  }
  if (device < 0 || device >= count) {
    throw ModelError(fmt::format("cuda:{} was asked for, but there are {} GPUs: cuda:0 to cuda:{}",
                                 device, count, count - 1));
  }
  check_cuda(cudaSetDevice(device_), "choosing the GPU");
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  check_blas(cublasCreate(&blas_), "starting");
  check_blas(cublasSetStream(blas_, stream_), "choosing the stream");
  void* pinned = nullptr;
  check_cuda(cudaMallocHost(&pinned, 2 * Staging::kHalf), "taking pinned memory");
  staging_.memory = static_cast<char*>(pinned);
  for (cudaEvent_t& event : staging_.drained) {
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  }
  blas_workspace_ = allocate(kBlasWorkspace);
  check_blas(cublasSetWorkspace(blas_, blas_workspace_, kBlasWorkspace), "taking a workspace");
  // With bf16 activations products may round their factors to 11 bits; in fp32 they may not.
  check_blas(cublasSetMathMode(blas_, precision == Precision::kBf16 ? CUBLAS_TF32_TENSOR_OP_MATH
                                                                    : CUBLAS_PEDANTIC_MATH),
             "choosing the precision");
  if (hax_context_create(nullptr, &context_) != HAX_SUCCESS) {
    throw ModelError(fmt::format("hax_context_create: {}", hax_last_error()));
  }
}

CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(stream_);
  for (auto& [key, recording] : recordings_) {
    if (recording.graph != nullptr) cudaGraphExecDestroy(recording.graph);
  }
  for (const cudaEvent_t event : staging_.drained) cudaEventDestroy(event);
  cudaFreeHost(staging_.memory);
  hax_context_destroy(context_);
  cublasDestroy(blas_);
  cudaFree(blas_workspace_);
  cudaFree(partial_);
  cudaStreamDestroy(stream_);
}

void* CudaBackend::allocate(size_t bytes) {
  void* memory = nullptr;
  ++allocations_;
  if (cudaMalloc(&memory, std::max<size_t>(bytes, 1)) == cudaSuccess) return memory;
  cudaGetLastError();
  size_t free_bytes = 0, total = 0;
  cudaMemGetInfo(&free_bytes, &total);
  throw ModelError(fmt::format(
      "the GPU's memory doesn't suffice: {:.1f} MiB were needed, {:.1f} of {:.1f} MiB are free; a "
      "smaller --bsz needs less",
      mib(bytes), mib(free_bytes), mib(total)));
}

void CudaBackend::release(void* memory) {
  // Work in the stream may still read it.
  check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU");
  cudaFree(memory);
}

void CudaBackend::copy_in(void* target, const void* host, size_t bytes) {
  if (bytes == 0) return;
  if (bytes > Staging::kHalf) {
    check_cuda(cudaMemcpyAsync(target, host, bytes, cudaMemcpyHostToDevice, stream_),
               "copying to the GPU");
    check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU");
    return;
  }
  if (staging_.used + bytes > Staging::kHalf) {
    check_cuda(cudaEventRecord(staging_.drained[staging_.half], stream_), "recording an event");
    staging_.half = 1 - staging_.half;
    staging_.used = 0;
    check_cuda(cudaEventSynchronize(staging_.drained[staging_.half]), "waiting for the GPU");
  }
  constexpr size_t kAlignment = 64;
  char* place =
      staging_.memory + static_cast<size_t>(staging_.half) * Staging::kHalf + staging_.used;
  staging_.used += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::memcpy(place, host, bytes);
  check_cuda(cudaMemcpyAsync(target, place, bytes, cudaMemcpyHostToDevice, stream_),
             "copying to the GPU");
}

void CudaBackend::copy_within(void* target, const void* source, size_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream_),
             "copying on the GPU");
}

void CudaBackend::run(const WorkKey& key, const std::function<void()>& work) {
  Recording& recording = recordings_[key];
  const bool known = recording.allocations == allocations_;
  if (known && recording.graph == nullptr) record(recording, work);
  if (known) {
    check_cuda(cudaGraphLaunch(recording.graph, stream_), "replaying recorded work");
    return;
  }
  if (recording.graph != nullptr) {
    check_cuda(cudaGraphExecDestroy(recording.graph), "forgetting recorded work");
    recording.graph = nullptr;
  }
  work();
  recording.allocations = allocations_;
}

void CudaBackend::record(Recording& recording, const std::function<void()>& work) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording work");
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream_, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check_cuda(cudaStreamEndCapture(stream_, &graph), "recording work");
  const cudaError_t error = cudaGraphInstantiate(&recording.graph, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(error, "making recorded work ready");
}

void CudaBackend::copy_out(void* host, const void* source, size_t bytes) {
  if (bytes > 0) {
    check_cuda(cudaMemcpyAsync(host, source, bytes, cudaMemcpyDeviceToHost, stream_),
               "copying from the GPU");
  }
  check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU");
}

void CudaBackend::zero(void* memory, size_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemsetAsync(memory, 0, bytes, stream_), "clearing memory");
}

void CudaBackend::gemm(bool transpose_a, bool transpose_b, float alpha, ConstMatrix a,
                       ConstMatrix b, float beta, Matrix c) {
  if (c.rows == 0 || c.columns == 0) return;
  const int64_t inner = transpose_a ? a.rows : a.columns;
  // cuBLAS counts columns first, which makes every matrix its transpose: c^T = op(b)^T op(a)^T.
  check_blas(cublasSgemm(blas_, transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                         transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(c.columns),
                         static_cast<int>(c.rows), static_cast<int>(inner), &alpha, b.data,
                         static_cast<int>(b.stride), a.data, static_cast<int>(a.stride), &beta,
                         c.data, static_cast<int>(c.stride)),
             "matrix product");
}

void CudaBackend::copy(ConstMatrix source, Matrix target) {
  if (target.rows == 0 || target.columns == 0) return;
  check_cuda(cudaMemcpy2DAsync(target.data, static_cast<size_t>(target.stride) * sizeof(float),
                               source.data, static_cast<size_t>(source.stride) * sizeof(float),
                               static_cast<size_t>(target.columns) * sizeof(float),
                               static_cast<size_t>(target.rows), cudaMemcpyDeviceToDevice, stream_),
             "copying a matrix");
}

float* CudaBackend::partial_sums(int64_t count) {
  if (count > partial_count_) {
    if (partial_ != nullptr) release(partial_);
    partial_ = static_cast<float*>(allocate(static_cast<size_t>(count) * sizeof(float)));
    partial_count_ = count;
  }
  return partial_;
}

}  // namespace joint_recall
