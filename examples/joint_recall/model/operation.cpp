#include "model/operation.hpp"

#ifdef HAX_WITH_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace joint_recall {
namespace {

thread_local OperationWatcher* present_watcher = nullptr;

}  // namespace

void watch_operations(OperationWatcher* watcher) { present_watcher = watcher; }

OperationScope::OperationScope(const Operation& operation) : watcher_(present_watcher) {
#ifdef HAX_WITH_NVTX
  nvtxRangePushA(operation.name);
#endif
  if (watcher_ != nullptr) watcher_->begin(operation);
}

OperationScope::~OperationScope() {
  if (watcher_ != nullptr) watcher_->end();
#ifdef HAX_WITH_NVTX
  nvtxRangePop();
#endif
}

}  // namespace joint_recall
