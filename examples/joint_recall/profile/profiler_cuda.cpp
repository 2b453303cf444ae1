// On a GPU: CUPTI's record of every kernel, also of those replayed from graphs. Which operation a kernel
// belongs to is noted when its graph node is recorded.
#include <cuda_runtime_api.h>

#include "profile/profiler.hpp"
#include "train/error.hpp"

#ifdef JOINT_RECALL_CUPTI
#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>

#include "model/operation.hpp"
#include "profile/cupti_library.hpp"
#endif

namespace joint_recall {

double memory_bytes_per_second(int device) {
  int kilohertz = 0, bits = 0;
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device) != cudaSuccess) {
    return 0.0;
  }
  return 2.0 * 1e3 * kilohertz * bits / 8.0;
}

#ifndef JOINT_RECALL_CUPTI
std::unique_ptr<Profiler> make_cuda_profiler() {
  throw TrainError("profile: this trainer was built without CUPTI, which measures kernels");
}
#else
namespace {

constexpr size_t kBufferBytes = size_t{4} << 20;

// "void hax::ssd::forward_kernel<float, 64>(Params)" -> "ssd::forward_kernel"
std::string short_name(const char* mangled) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? demangled : mangled;
  std::free(demangled);
  std::string kept;
  int depth = 0;
  for (const char c : name) {
    if (c == '(' && depth == 0 && !kept.ends_with("::")) break;
    depth += c == '<' || c == '(' ? 1 : 0;
    if (depth == 0) kept += c;
    depth -= c == '>' || c == ')' ? 1 : 0;
  }
  for (const char* prefix : {"void ", "hax::", "joint_recall::", "::"}) {
    if (kept.starts_with(prefix)) kept.erase(0, std::string(prefix).size());
  }
  for (size_t at; (at = kept.find("::::")) != std::string::npos;) kept.erase(at, 2);
  return kept.size() > 57 ? kept.substr(0, 54) + "..." : kept;
}

// CUPTI hands its records to a plain function.
class CudaProfiler;
CudaProfiler* present_profiler = nullptr;

class CudaProfiler : public Profiler, public OperationWatcher {
 public:
  CudaProfiler() {
    present_profiler = this;
    cupti_.check(cupti_.subscribe(&subscriber_, note_node, this), "subscribing");
    for (const auto event :
         {CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED, CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED}) {
      cupti_.check(cupti_.enable_callback(1, subscriber_, CUPTI_CB_DOMAIN_RESOURCE, event),
                   "asking for graph nodes");
    }
    cupti_.check(cupti_.register_callbacks(give_buffer, take_buffer), "registering buffers");
    watch_operations(this);
  }
  ~CudaProfiler() override {
    watch_operations(nullptr);
    cupti_.unsubscribe(subscriber_);
    present_profiler = nullptr;
  }

  void measure(const std::function<void()>& steps, Profile& profile) override {
    constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                             CUPTI_ACTIVITY_KIND_MEMCPY,
                                             CUPTI_ACTIVITY_KIND_MEMSET};
    for (const auto kind : kKinds) cupti_.check(cupti_.enable(kind), "starting to measure");
    steps();
    cupti_.check(cupti_.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "collecting");
    for (const auto kind : kKinds) cupti_.disable(kind);
    fill(profile);
  }

  void begin(const Operation& operation) override {
    instances_.push_back({operation.name, operation.bytes, 0});
    open_.push_back(instances_.size() - 1);
  }
  void end() override { open_.pop_back(); }

 private:
  // An operation as it was recorded once.
  struct Instance {
    std::string name;
    double bytes;
    int64_t runs;
  };
  static constexpr size_t kNone = SIZE_MAX;

  static void note_node(void* self, CUpti_CallbackDomain, CUpti_CallbackId event,
                        const void* data) {
    auto& profiler = *static_cast<CudaProfiler*>(self);
    const auto& resource = *static_cast<const CUpti_ResourceData*>(data);
    const auto& graph = *static_cast<const CUpti_GraphData*>(resource.resourceDescriptor);
    uint64_t id = 0, original = 0;
    profiler.cupti_.graph_node_id(graph.node, &id);
    const std::lock_guard lock(profiler.mutex_);
    if (event == CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED) {
      profiler.node_instance_[id] = profiler.open_.empty() ? kNone : profiler.open_.back();
    } else {
      profiler.cupti_.graph_node_id(graph.originalNode, &original);
      const auto found = profiler.node_instance_.find(original);
      if (found != profiler.node_instance_.end()) profiler.node_instance_[id] = found->second;
    }
  }

  static void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* most_records) {
    *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
    *size = kBufferBytes;
    *most_records = 0;
  }

  static void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
    CUpti_Activity* record = nullptr;
    if (CudaProfiler* const profiler = present_profiler) {
      while (profiler->cupti_.next_record(buffer, valid, &record) == CUPTI_SUCCESS) {
        profiler->note(*record);
      }
    }
    std::free(buffer);
  }

  void note(const CUpti_Activity& record) {
    if (record.kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto& kernel = reinterpret_cast<const CUpti_ActivityKernel9&>(record);
      note(short_name(kernel.name), kernel.graphNodeId, kernel.start, kernel.end);
    } else if (record.kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto& copy = reinterpret_cast<const CUpti_ActivityMemcpy5&>(record);
      note("(copy)", copy.graphNodeId, copy.start, copy.end);
    } else if (record.kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto& clear = reinterpret_cast<const CUpti_ActivityMemset4&>(record);
      note("(clear)", clear.graphNodeId, clear.start, clear.end);
    }
  }

  void note(const std::string& kernel, uint64_t node, uint64_t start, uint64_t end) {
    const std::lock_guard lock(mutex_);
    const auto found = node_instance_.find(node);
    const size_t instance = node == 0 || found == node_instance_.end() ? kNone : found->second;
    const std::string operation = instance == kNone ? "" : instances_[instance].name;
    KernelRow& row = kernels_[{operation, kernel}];
    row.operation = operation;
    row.kernel = kernel;
    ++row.calls;
    row.seconds += 1e-9 * static_cast<double>(end - start);
    runs_.push_back({operation, kernel, start, end});
    if (instance == kNone) return;
    // An operation ran as often as any of its kernels.
    instances_[instance].runs = std::max(instances_[instance].runs, ++node_runs_[node]);
  }

  void fill(Profile& profile) {
    const std::lock_guard lock(mutex_);
    std::map<std::string, OperationRow> operations;
    for (const auto& [key, row] : kernels_) {
      profile.kernels.push_back(row);
      OperationRow& operation = operations[row.operation];
      operation.seconds += row.seconds;
      if (row.operation.empty()) operation.calls += row.calls;
    }
    for (const Instance& instance : instances_) {
      if (instance.runs == 0) continue;
      OperationRow& operation = operations[instance.name];
      operation.calls += instance.runs;
      operation.bytes += instance.bytes * static_cast<double>(instance.runs);
    }
    for (auto& [name, row] : operations) {
      row.operation = name;
      profile.operations.push_back(row);
    }
    std::ranges::stable_sort(runs_, {}, &KernelRun::start);
    const uint64_t origin = runs_.empty() ? 0 : runs_.front().start;
    uint64_t busy = 0, reached = 0;
    for (KernelRun& run : runs_) {
      run.start -= origin;
      run.end -= origin;
      busy += run.end > reached ? run.end - std::max(run.start, reached) : 0;
      reached = std::max(reached, run.end);
    }
    profile.runs = std::move(runs_);
    profile.busy_seconds = 1e-9 * static_cast<double>(busy) / static_cast<double>(profile.steps);
  }

  CuptiLibrary cupti_;
  CUpti_SubscriberHandle subscriber_ = nullptr;
  std::mutex mutex_;  // records come on a thread of CUPTI's
  std::vector<Instance> instances_;
  std::vector<size_t> open_;
  std::map<uint64_t, size_t> node_instance_;
  std::map<uint64_t, int64_t> node_runs_;
  std::map<std::pair<std::string, std::string>, KernelRow> kernels_;
  std::vector<KernelRun> runs_;
};

}  // namespace

std::unique_ptr<Profiler> make_cuda_profiler() { return std::make_unique<CudaProfiler>(); }
#endif

}  // namespace joint_recall
