#include "scan/selective_scan/selective_scan_launch_forward.cuh"

namespace hax::selective_scan {

void cuda_forward(const ForwardParams& p, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  dispatch_float(p.u.type, [&](auto type) {
    dispatch_forward<typename decltype(type)::type, true>(launch, p, {});
  });
}

}  // namespace hax::selective_scan
