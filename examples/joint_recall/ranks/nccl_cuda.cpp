// NCCL, loaded where a run has several GPUs: one GPU does without.
#include <fmt/format.h>

#include "ranks/gradient_sum.hpp"
#include "train/error.hpp"

#ifdef JOINT_RECALL_NCCL
#include <dlfcn.h>
#include <nccl.h>

#include <exception>
#endif

namespace joint_recall {

#ifndef JOINT_RECALL_NCCL
GradientSum make_nccl_sum(const Ranks&, void*) {
  throw TrainError(
      "ranks on GPUs need NCCL, without which this trainer was built (Debian: libnccl-dev of "
      "NVIDIA's "
      "repository; or the Python package nvidia-nccl-cu13)");
}
#else
namespace {

class Nccl {
 public:
  Nccl(const Ranks& ranks, cudaStream_t stream) : stream_(stream) {
    void* library = open_library();
    load(library, "ncclGetUniqueId", get_id_);
    load(library, "ncclCommInitRank", init_);
    load(library, "ncclAllReduce", all_reduce_);
    load(library, "ncclCommDestroy", destroy_);
    load(library, "ncclGetErrorString", error_string_);
    ncclUniqueId id{};
    if (ranks.first()) check(get_id_(&id), "making an id");
    const std::string shared = ranks.broadcast(std::string(id.internal, sizeof id.internal));
    shared.copy(id.internal, sizeof id.internal);
    check(init_(&communicator_, ranks.size(), id, ranks.rank()), "joining the ranks");
  }
  // The others don't come to this where an exception ends this rank.
  ~Nccl() {
    if (communicator_ != nullptr && std::uncaught_exceptions() == 0) destroy_(communicator_);
  }
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;

  void sum(float* values, int64_t count) const {
    check(all_reduce_(values, values, static_cast<size_t>(count), ncclFloat32, ncclSum,
                      communicator_, stream_),
          "summing gradients");
  }

 private:
  static void* open_library() {
    for (const char* name : {"libnccl.so.2", JOINT_RECALL_NCCL}) {
      if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    }
    throw TrainError(fmt::format("ranks on GPUs need NCCL, which isn't there: {}", ::dlerror()));
  }

  template <class Function>
  static void load(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
    if (function == nullptr) throw TrainError(fmt::format("NCCL has no {}", name));
  }

  void check(ncclResult_t result, const char* what) const {
    if (result == ncclSuccess) return;
    throw TrainError(fmt::format("NCCL: {}: {}", what, error_string_(result)));
  }

  cudaStream_t stream_;
  ncclComm_t communicator_ = nullptr;
  decltype(&ncclGetUniqueId) get_id_ = nullptr;
  decltype(&ncclCommInitRank) init_ = nullptr;
  decltype(&ncclAllReduce) all_reduce_ = nullptr;
  decltype(&ncclCommDestroy) destroy_ = nullptr;
  decltype(&ncclGetErrorString) error_string_ = nullptr;
};

}  // namespace

GradientSum make_nccl_sum(const Ranks& ranks, void* stream) {
  const auto nccl = std::make_shared<Nccl>(ranks, static_cast<cudaStream_t>(stream));
  return [nccl](float* gradient, int64_t count) { nccl->sum(gradient, count); };
}
#endif

}  // namespace joint_recall
