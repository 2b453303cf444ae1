#ifdef JOINT_RECALL_CUPTI
#include <dlfcn.h>
#include <fmt/format.h>

#include "profile/cupti_library.hpp"
#include "train/error.hpp"

namespace joint_recall {
namespace {

void* open_library() {
  const std::string versioned = fmt::format("libcupti.so.{}", CUDA_VERSION / 1000);
  for (const char* name : {versioned.c_str(), JOINT_RECALL_CUPTI, "libcupti.so"}) {
    if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  }
  throw TrainError(fmt::format(
      "profile: CUPTI, which measures kernels, isn't there: {} (it comes with the CUDA toolkit)",
      ::dlerror()));
}

template <class Function>
void load(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function == nullptr) throw TrainError(fmt::format("profile: CUPTI has no {}", name));
}

}  // namespace

CuptiLibrary::CuptiLibrary() {
  void* library = open_library();  // stays loaded: it may still call back
  load(library, "cuptiSubscribe", subscribe);
  load(library, "cuptiUnsubscribe", unsubscribe);
  load(library, "cuptiEnableCallback", enable_callback);
  load(library, "cuptiGetGraphNodeId", graph_node_id);
  load(library, "cuptiActivityRegisterCallbacks", register_callbacks);
  load(library, "cuptiActivityEnable", enable);
  load(library, "cuptiActivityDisable", disable);
  load(library, "cuptiActivityFlushAll", flush);
  load(library, "cuptiActivityGetNextRecord", next_record);
  load(library, "cuptiGetResultString", result_string);
}

void CuptiLibrary::check(CUptiResult result, const char* what) const {
  if (result == CUPTI_SUCCESS) return;
  const char* text = "";
  result_string(result, &text);
  throw TrainError(fmt::format("profile: CUPTI: {}: {}", what, text));
}

}  // namespace joint_recall
#endif
