// Names what is done, for whoever watches: Nsight, through NVTX, and `profile`.
#pragma once

#include <string_view>

namespace joint_recall {

struct Operation {
  const char* name = "";
  double bytes = 0.0;  // that must be read or written at least; 0: unknown
};

class OperationWatcher {
 public:
  virtual ~OperationWatcher() = default;
  virtual void begin(const Operation& operation) = 0;
  virtual void end() = 0;
};

// Watches this thread from now on; NULL: nobody does.
void watch_operations(OperationWatcher* watcher);

// An operation begins and ends. It may contain others.
class OperationScope {
 public:
  explicit OperationScope(const Operation& operation);
  ~OperationScope();
  OperationScope(const OperationScope&) = delete;
  OperationScope& operator=(const OperationScope&) = delete;

 private:
  OperationWatcher* watcher_;
};

}  // namespace joint_recall
