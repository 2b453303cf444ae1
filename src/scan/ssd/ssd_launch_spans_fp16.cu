#include "scan/ssd/ssd_launch_spans.cuh"

namespace hax::ssd {

template void launch_spans<fp16>(const device::Launcher&, const ForwardParams&,
                                 const CudaForwardPlan&);

}  // namespace hax::ssd
