#ifdef HAX_WITH_CUDA
#include "gpu_bench.hpp"

#include <algorithm>
#include <cstring>
#include <random>

namespace gpu_bench {
namespace {

// Median seconds of `repeats` runs of f, which enqueues on the stream.
template <class F>
double median_seconds(cudaStream_t stream, int repeats, F&& f) {
  cudaEvent_t start, stop;
  require(cudaEventCreate(&start), "event");
  require(cudaEventCreate(&stop), "event");
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    require(cudaEventRecord(start, stream), "event");
    f();
    require(cudaEventRecord(stop, stream), "event");
    require(cudaEventSynchronize(stop), "run");
    float ms = 0.0f;
    require(cudaEventElapsedTime(&ms, start, stop), "event");
    seconds.push_back(1e-3 * ms);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

// Dense bf16 operations of an SM's tensor cores in a clock.
double tensor_flops_per_clock(const cudaDeviceProp& properties) {
  switch (10 * properties.major + properties.minor) {
    case 80: return 2048.0;
    case 90: return 4096.0;
    case 100: return 8192.0;
    default: return 1024.0;
  }
}

Machine measure_machine() {
  Machine result;
  constexpr size_t kBytes = size_t{2} << 30;
  void *from, *to;
  require(cudaMalloc(&from, kBytes), "memory");
  require(cudaMalloc(&to, kBytes), "memory");
  require(cudaMemset(from, 1, kBytes), "memory");
  const auto copy = [&] {
    require(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, nullptr), "copy");
  };
  median_seconds(nullptr, 3, copy);
  result.copy_bytes_per_s = 2.0 * kBytes / median_seconds(nullptr, 15, copy);
  cudaFree(from);
  cudaFree(to);
  cudaDeviceProp properties;
  require(cudaGetDeviceProperties(&properties, 0), "properties");
  int kilohertz = 0, driver = 0;
  require(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, 0), "clock");
  require(cudaDriverGetVersion(&driver), "driver");
  const double sm_clocks_per_s = properties.multiProcessorCount * 1e3 * kilohertz;
  result.exps_per_s = 16.0 * sm_clocks_per_s;
  result.fp32_flops_per_s = 2.0 * 128.0 * sm_clocks_per_s;
  result.tensor_flops_per_s = tensor_flops_per_clock(properties) * sm_clocks_per_s;
  result.l2_bytes = properties.l2CacheSize;
  benchmark::AddCustomContext("gpu", properties.name);
  benchmark::AddCustomContext("cuda_driver_api", std::to_string(driver));
  benchmark::AddCustomContext("copy_GB_per_s", std::to_string(result.copy_bytes_per_s * 1e-9));
  benchmark::AddCustomContext("exp_G_per_s", std::to_string(result.exps_per_s * 1e-9));
  benchmark::AddCustomContext("tensor_TFLOP_per_s",
                              std::to_string(result.tensor_flops_per_s * 1e-12));
  return result;
}

// What a call cannot do without, beside its bytes.
struct Work {
  double exps, flops;
  Unit unit;
};

// Seconds that no call can be faster than on this GPU.
double floor_seconds(double bytes, const Work& work) {
  const Machine& gpu = machine();
  const double flops_per_s =
      work.unit == Unit::tensor_cores ? gpu.tensor_flops_per_s : gpu.fp32_flops_per_s;
  return std::max(
      {bytes / gpu.copy_bytes_per_s, work.exps / gpu.exps_per_s, work.flops / flops_per_s});
}

void run(benchmark::State& state, const MakeCall& make, const Work& work) {
  std::vector<std::unique_ptr<Call>> sets;
  sets.push_back(make());
  const int64_t bytes = sets[0]->bytes();
  const int64_t enough = 4 * machine().l2_bytes;
  while (static_cast<int64_t>(sets.size()) * bytes < enough && sets.size() < 64) {
    sets.push_back(make());
  }
  for (const auto& set : sets) {
    if (set->prepare() != HAX_SUCCESS) return state.SkipWithError(hax_last_error());
  }
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  for (const auto& set : sets) {
    if (set->enqueue(stream) != HAX_SUCCESS) return state.SkipWithError(hax_last_error());
  }
  require(cudaStreamSynchronize(stream), "warm-up");
  const size_t calls = std::max<size_t>(sets.size(), bytes < (int64_t{1} << 26) ? 32 : 4);
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  for (size_t i = 0; i < calls; ++i) sets[i % sets.size()]->enqueue(stream);
  require(cudaStreamEndCapture(stream, &graph), "capture");
  require(cudaGraphInstantiate(&executable, graph, 0), "graph");
  double best = 1e9, total = 0.0;
  for (auto _ : state) {
    const double seconds =
        median_seconds(stream, 3, [&] { require(cudaGraphLaunch(executable, stream), "replay"); }) /
        static_cast<double>(calls);
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
    total += seconds;
  }
  const double mean = total / static_cast<double>(state.iterations());
  const double floor = floor_seconds(static_cast<double>(bytes), work);
  state.counters["bytes"] = static_cast<double>(bytes);
  state.counters["exps"] = work.exps;
  state.counters["flops"] = work.flops;
  state.counters["GB_per_s"] = static_cast<double>(bytes) / mean * 1e-9;
  state.counters["floor_ms"] = 1e3 * floor;
  state.counters["best_ms"] = 1e3 * best;
  state.counters["roofline_percent"] = 100.0 * floor / mean;
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

}  // namespace

const Machine& machine() {
  static const Machine instance = measure_machine();
  return instance;
}

Tensor::Tensor(std::vector<int64_t> shape, hax_data_type type, double low, double high)
    : shape_(std::move(shape)) {
  int64_t count = 1;
  for (const int64_t length : shape_) count *= length;
  const int64_t size = type.bits / 8;
  bytes_ = count * size;
  require(cudaMalloc(&data_, static_cast<size_t>(bytes_) + 1), "memory");
  tensor_ = {data_, {HAX_DEVICE_CUDA, 0}, static_cast<int32_t>(shape_.size()),
             type,  shape_.data(),        nullptr,
             0};
  // A few million values, repeated over the tensor.
  constexpr int64_t kPeriod = (int64_t{1} << 20) + 7;
  std::mt19937 engine(static_cast<unsigned>(count));
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(static_cast<float>(low), static_cast<float>(high));
  std::vector<unsigned char> values(static_cast<size_t>(std::min(count, kPeriod) * size));
  for (size_t i = 0; i < values.size(); i += static_cast<size_t>(size)) {
    const float value = low < high ? uniform(engine) : normal(engine);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const uint16_t bf16 = static_cast<uint16_t>(bits >> 16);
    size == 4 ? std::memcpy(&values[i], &value, 4) : std::memcpy(&values[i], &bf16, 2);
  }
  for (int64_t at = 0; at < bytes_; at += static_cast<int64_t>(values.size())) {
    const auto part = std::min(bytes_ - at, static_cast<int64_t>(values.size()));
    require(cudaMemcpy(static_cast<char*>(data_) + at, values.data(), static_cast<size_t>(part),
                       cudaMemcpyHostToDevice),
            "upload");
  }
}

void add(const std::string& name, const MakeCall& make, double exps, double flops, Unit unit) {
  if (!available()) return;
  machine();
  const Work work{exps, flops, unit};
  benchmark::RegisterBenchmark(name.c_str(),
                               [make, work](benchmark::State& state) { run(state, make, work); })
      ->UseManualTime()
      ->Iterations(10)
      ->Unit(benchmark::kMillisecond);
}

}  // namespace gpu_bench
#endif
