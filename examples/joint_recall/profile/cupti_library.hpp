// The functions of CUPTI that are used, loaded when they are wanted: most runs do without.
#pragma once

#include <cupti.h>

namespace joint_recall {

struct CuptiLibrary {
  CuptiLibrary();  // throws a TrainError where the library isn't there

  decltype(&cuptiSubscribe) subscribe = nullptr;
  decltype(&cuptiUnsubscribe) unsubscribe = nullptr;
  decltype(&cuptiEnableCallback) enable_callback = nullptr;
  decltype(&cuptiGetGraphNodeId) graph_node_id = nullptr;
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
  decltype(&cuptiGetResultString) result_string = nullptr;

  void check(CUptiResult result, const char* what) const;
};

}  // namespace joint_recall
