#include "attention/sparse_attention/sparse_attention_backward_tiles_launch.cuh"
#include "attention/sparse_attention/sparse_attention_index_launch.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_setup.cuh"
#include "core/dispatch.hpp"
#include "core/integer.hpp"

namespace hax::sparse_attention {

template <class T>  // sparse_attention_backward_*.cu
void launch_backward(const device::Launcher&, const BackwardParams&, const CudaBackwardPlan&);

void cuda_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  const int64_t queries = p.sequences.batch * p.q_heads * p.sequences.length;
  prepare_cuda_indices(p, plan.indices, launch);
  if (plan.sorted_queries) {
    launch(sort_bins_kernel, ceil_div(queries, kSetupThreads), kSetupThreads, 0, p, plan);
  }
  if (plan.spans) {
    launch(spans_kernel, p.sequences.count() * p.k_heads, kSpanThreads, 0, p, plan);
  }
  dispatch_float(p.q.type, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int V = device::kVectorElements<T>;
    const bool vectors = device::moves_in_vectors<V>(p.o) && device::moves_in_vectors<V>(p.d_o);
    if (!sums_delta_itself<T>(p, plan)) {
      launch(delta_kernel<T>, ceil_div(queries * 8, kSetupThreads), kSetupThreads, 0, p, plan.delta,
             vectors);
    }
    launch_backward<T>(launch, p, plan);
  });
}

}  // namespace hax::sparse_attention
