#include "scan/selective_scan/selective_scan_launch_forward.cuh"

namespace hax::selective_scan {

void cuda_states(const ForwardParams& p, const Checkpoints& given, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  dispatch_float(p.u.type, [&](auto type) {
    dispatch_forward<typename decltype(type)::type, false>(launch, p, given);
  });
}

}  // namespace hax::selective_scan
