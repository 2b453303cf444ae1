#include "attention/sparse_attention/sparse_attention_forward_launch.cuh"
#include "attention/sparse_attention/sparse_attention_index_launch.cuh"

namespace hax::sparse_attention {

void cuda_forward(const ForwardParams& p, const CudaForwardPlan& planned, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  prepare_cuda_forward(p, planned, launch);
  cuda_attend(p, planned, launch);
}

void cuda_attend(const ForwardParams& p, const CudaForwardPlan& planned,
                 const device::Launcher& launch) {
  const CudaPath& path = planned.path;
  dispatch_float(p.q.type, [&](auto type) {
    using T = typename decltype(type)::type;
    CudaForwardPlan plan = planned;
    plan.vectors_q = has_vector_rows<T>(p.q);
    plan.vectors_k = has_vector_rows<T>(p.k);
    plan.vectors_v = has_vector_rows<T>(p.v);
    plan.vectors_o = has_vector_rows<T>(p.o);
    if (launch_band<T>(p, plan, launch)) return;
    if (path.lsh) launch_forward<T>(p, plan, true, launch);
    if (path.others && (!path.lsh || path.sparse)) launch_forward<T>(p, plan, false, launch);
  });
}

}  // namespace hax::sparse_attention
