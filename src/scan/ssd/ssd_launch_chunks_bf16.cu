#include "scan/ssd/ssd_launch_chunks.cuh"

namespace hax::ssd {

template void launch_chunks<bf16>(const device::Launcher&, const ForwardParams&,
                                  const CudaForwardPlan&);

}  // namespace hax::ssd
