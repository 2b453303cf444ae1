// A named range on the timeline of NVIDIA Nsight; nothing in builds without NVTX.
#pragma once

#ifdef HAX_WITH_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace hax {

class NvtxRange {
 public:
#ifdef HAX_WITH_NVTX
  explicit NvtxRange(const char* name) { nvtxRangePushA(name); }
  ~NvtxRange() { nvtxRangePop(); }
#else
  explicit NvtxRange(const char*) {}
#endif
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;
};

}  // namespace hax
