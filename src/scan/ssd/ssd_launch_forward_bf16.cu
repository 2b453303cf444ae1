#include "scan/ssd/ssd_launch_forward.cuh"

namespace hax::ssd {

template void launch_forward<bf16>(const device::Launcher&, const ForwardParams&,
                                   const CudaForwardPlan&);

}  // namespace hax::ssd
