#include <algorithm>
#include <cstdlib>

#include "attention/sparse_attention/sparse_attention_forward_launch.cuh"
#include "attention/sparse_attention/sparse_attention_index_launch.cuh"

namespace hax::sparse_attention {

namespace {

// Whether the kernel for short sequences can count bytes of rows in 32 bits, and finds indices side by side.
bool has_short_strides(const ForwardParams& p) {
  constexpr int64_t kLongest = int64_t{1} << 28;
  const Tensor* const rows[] = {&p.q, &p.k, &p.v, &p.o};
  const Tensor* const indices[] = {&p.pattern.key_order, &p.pattern.eviction};
  return std::ranges::all_of(rows, [](auto* t) { return std::abs(t->stride[1]) <= kLongest; }) &&
         std::ranges::all_of(indices, [](auto* t) { return t->stride[2] == 1; });
}

}  // namespace

CudaForwardPlan settle_cuda_forward(const ForwardParams& p, const CudaForwardPlan& planned) {
  CudaForwardPlan plan = planned;
  dispatch_float(p.q.type, [&](auto type) {
    using T = typename decltype(type)::type;
    plan.vectors_q = has_vector_rows<T>(p.q);
    plan.vectors_k = has_vector_rows<T>(p.k);
    plan.vectors_v = has_vector_rows<T>(p.v);
    plan.vectors_o = has_vector_rows<T>(p.o);
  });
  const bool vectors = plan.vectors_q && plan.vectors_k && plan.vectors_v && plan.vectors_o;
  if (!vectors || !has_short_strides(p)) plan.lists.short_queries = nullptr;
  if (plan.lists.short_queries && !plan.path.sparse) {  // nobody looks at these
    plan.indices.query_order = plan.indices.key_rank = nullptr;
  }
  return plan;
}

void cuda_forward(const ForwardParams& p, const CudaForwardPlan& planned, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  const CudaForwardPlan plan = settle_cuda_forward(p, planned);
  prepare_cuda_forward(p, plan, launch);
  cuda_attend(p, plan, launch);
}

void cuda_attend(const ForwardParams& p, const CudaForwardPlan& plan,
                 const device::Launcher& launch) {
  const CudaPath& path = plan.path;
  dispatch_float(p.q.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (launch_band<T>(p, plan, launch)) return;
    if constexpr (sizeof(T) == 2) {
      if (plan.lists.short_queries) {
        launch_short_forward<T>(p, plan, launch);
        if (!path.sparse) return;
      }
    }
    if (path.lsh) launch_forward<T>(p, plan, true, launch);
    if (path.others && (!path.lsh || path.sparse)) launch_forward<T>(p, plan, false, launch);
  });
}

}  // namespace hax::sparse_attention
