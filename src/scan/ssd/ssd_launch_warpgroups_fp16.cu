#include "scan/ssd/ssd_launch_warpgroups.cuh"

namespace hax::ssd {

template void launch_warpgroups<fp16>(const device::Launcher&, const ForwardParams&,
                                      const CudaForwardPlan&);

}  // namespace hax::ssd
