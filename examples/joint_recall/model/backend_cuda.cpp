// Memory, streams and recorded work.
#include "model/backend_cuda.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "model/error.hpp"

namespace joint_recall {
namespace {

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

CudaBackend::CudaBackend(int device, Precision precision) : device_(device), precision_(precision) {
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
  // The attention is the longest way through a layer: its branches come before the main line, the others after it.
  int lowest = 0, highest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "asking for priorities");
  constexpr int kRank[] = {1, 0, 0, 2, 3};
  for (size_t i = 0; i < lines_.size(); ++i) {
    Line& line = lines_[i];
    check_cuda(cudaStreamCreateWithPriority(&line.stream, cudaStreamNonBlocking,
                                            std::min(highest + kRank[i], lowest)),
               "making a stream");
    check_cuda(cudaEventCreateWithFlags(&line.reached, cudaEventDisableTiming), "making an event");
    line.ticket = static_cast<int32_t*>(allocate(kTickets * sizeof(int32_t)));
    check_cuda(cudaMemset(line.ticket, 0, kTickets * sizeof(int32_t)), "clearing memory");
  }
  const cublasStatus_t blas = cublasLtCreate(&blas_);
  if (blas != CUBLAS_STATUS_SUCCESS) {
    throw ModelError(fmt::format("cuBLASLt: starting: {}", cublasLtGetStatusString(blas)));
  }
  void* pinned = nullptr;
  check_cuda(cudaMallocHost(&pinned, 2 * Staging::kHalf), "taking pinned memory");
  staging_.memory = static_cast<char*>(pinned);
  for (cudaEvent_t& event : staging_.drained) {
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  }
  if (hax_context_create(nullptr, &context_) != HAX_SUCCESS) {
    throw ModelError(fmt::format("hax_context_create: {}", hax_last_error()));
  }
}

CudaBackend::~CudaBackend() {
  forget_recorded();
  for (const cudaEvent_t event : staging_.drained) cudaEventDestroy(event);
  cudaFreeHost(staging_.memory);
  hax_context_destroy(context_);
  cublasLtDestroy(blas_);
  for (const auto& [memory, count] : sum_memory_) cudaFree(memory);
  for (const Line& line : lines_) {
    cudaFree(line.workspace);
    cudaFree(line.partial);
    cudaFree(line.ticket);
    cudaEventDestroy(line.reached);
    cudaStreamDestroy(line.stream);
  }
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
  // Work in the streams may still read it. Destructors call this: an error shows in the next call.
  for (const Line& line : lines_) cudaStreamSynchronize(line.stream);
  cudaFree(memory);
}

void CudaBackend::copy_in(void* target, const void* host, size_t bytes) {
  if (bytes == 0) return;
  if (bytes > Staging::kHalf) {
    check_cuda(cudaMemcpyAsync(target, host, bytes, cudaMemcpyHostToDevice, here()),
               "copying to the GPU");
    check_cuda(cudaStreamSynchronize(here()), "waiting for the GPU");
    return;
  }
  if (staging_.used + bytes > Staging::kHalf) {
    check_cuda(cudaEventRecord(staging_.drained[staging_.half], here()), "recording an event");
    staging_.half = 1 - staging_.half;
    staging_.used = 0;
    check_cuda(cudaEventSynchronize(staging_.drained[staging_.half]), "waiting for the GPU");
  }
  constexpr size_t kAlignment = 64;
  char* place =
      staging_.memory + static_cast<size_t>(staging_.half) * Staging::kHalf + staging_.used;
  staging_.used += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::memcpy(place, host, bytes);
  check_cuda(cudaMemcpyAsync(target, place, bytes, cudaMemcpyHostToDevice, here()),
             "copying to the GPU");
}

void CudaBackend::forget_recorded() {
  cudaStreamSynchronize(lines_.front().stream);
  for (auto& [key, recording] : recordings_) {
    if (recording.graph != nullptr) cudaGraphExecDestroy(recording.graph);
  }
  recordings_.clear();
}

void CudaBackend::copy_within(void* target, const void* source, size_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, here()),
             "copying on the GPU");
}

void CudaBackend::run(const WorkKey& key, const std::function<void()>& work) {
  // Left from work that failed, if at all.
  sums_.clear();
  sums_taken_ = 0;
  Recording& recording = recordings_[key];
  const bool known = recording.allocations == allocations_;
  if (known && recording.graph == nullptr) record(recording, work);
  if (known) {
    check_cuda(cudaGraphLaunch(recording.graph, here()), "replaying recorded work");
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
  check_cuda(cudaStreamBeginCapture(here(), cudaStreamCaptureModeThreadLocal), "recording work");
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(here(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check_cuda(cudaStreamEndCapture(here(), &graph), "recording work");
  const cudaError_t error = cudaGraphInstantiate(&recording.graph, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(error, "making recorded work ready");
}

void CudaBackend::copy_out(void* host, const void* source, size_t bytes) {
  if (bytes > 0) {
    check_cuda(cudaMemcpyAsync(host, source, bytes, cudaMemcpyDeviceToHost, here()),
               "copying from the GPU");
  }
  check_cuda(cudaStreamSynchronize(here()), "waiting for the GPU");
}

void CudaBackend::zero(void* memory, size_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemsetAsync(memory, 0, bytes, here()), "clearing memory");
}

void CudaBackend::wait(Line& waiting, Line& other) {
  check_cuda(cudaEventRecord(other.reached, other.stream), "recording an event");
  check_cuda(cudaStreamWaitEvent(waiting.stream, other.reached, 0), "waiting for a branch");
}

void CudaBackend::branch(int number, const std::function<void()>& work) {
  Line* const before = line_;
  Line& own = lines_.at(static_cast<size_t>(number) + 1);
  wait(own, *before);
  own.busy = true;
  line_ = &own;
  try {
    work();
  } catch (...) {
    line_ = before;
    throw;
  }
  line_ = before;
}

void CudaBackend::join(int number) {
  Line& own = lines_.at(static_cast<size_t>(number) + 1);
  if (own.busy) wait(*line_, own);
  own.busy = false;
}

float* CudaBackend::partial_sums(int64_t count) {
  if (count > line_->partial_count) {
    if (line_->partial != nullptr) release(line_->partial);
    line_->partial = static_cast<float*>(allocate(static_cast<size_t>(count) * sizeof(float)));
    line_->partial_count = count;
  }
  return line_->partial;
}

}  // namespace joint_recall
