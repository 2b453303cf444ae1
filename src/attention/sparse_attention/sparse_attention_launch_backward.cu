#include "attention/sparse_attention/sparse_attention.hpp"
#include "core/dispatch.hpp"

namespace hax::sparse_attention {

template <class T>
void launch_backward(const BackwardParams&, const CudaBackwardPlan&, void* stream);

void cuda_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  dispatch_float(p.q.type, [&](auto type) {
    launch_backward<typename decltype(type)::type>(p, plan, stream);
  });
}

}  // namespace hax::sparse_attention
