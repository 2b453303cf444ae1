// Backward's launches for one activation type; each type has a .cu file of its own.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_keys.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_queries.cuh"
#include "core/dispatch.hpp"
#include "core/integer.hpp"
#include "device/launch.cuh"

namespace hax::sparse_attention {

template <class T>
BackwardAccess access_of(const BackwardParams& p) {
  constexpr int V = device::kVectorElements<T>;
  return {device::moves_in_vectors<V>(p.q),  device::moves_in_vectors<V>(p.k),
          device::moves_in_vectors<V>(p.v),  device::moves_in_vectors<V>(p.d_o),
          device::moves_in_vectors<V>(p.dq), device::moves_in_vectors<V>(p.dk),
          device::moves_in_vectors<V>(p.dv)};
}

// The kernels of a call with tiles of one shape.
template <class S>
class BackwardPasses {
 public:
  BackwardPasses(const device::Launcher& launch, const BackwardParams& p,
                 const CudaBackwardPlan& plan)
      : launch_(launch), p_(p), plan_(plan) {
    common_.access = access_of<typename S::T>(p);
    common_.plan = plan;
  }

  void run() const {
    const CudaPath& path = plan_.path;
    const bool one_interval = !path.dense && !plan_.spans && !path.lsh;
    if (one_interval || path.dense) {
      BackwardLaunch pass = common_;
      pass.pass = BackwardPass::neighbours;
      pass.rule = path.lsh ? PairRule::either : PairRule::own;
      pass.short_only = !one_interval;
      keys(pass, S::kStay);
      queries(pass, S::kStay);
    }
    if (!path.sparse || one_interval) return;
    keys_of_spans();
    if (path.lsh) {
      const BackwardLaunch order = long_pass(BackwardPass::order, PairRule::lsh, false);
      keys(order, S::kStay);
      queries(order, S::kStay);
    } else if (p_.dk || p_.dv) {
      const int64_t elements = p_.sequences.batch * p_.k_heads * p_.sequences.length;
      launch_(finish_kernel<typename S::T>, ceil_div(elements * 32, kFinishThreads), kFinishThreads,
              0, p_, plan_);
    }
    if (!plan_.spans) return;
    const PairRule rule = path.lsh ? PairRule::own_not_lsh : PairRule::own;
    keys(long_pass(BackwardPass::direct, rule, path.lsh), S::kStay);
    queries(long_pass(BackwardPass::stretch, rule, path.lsh), plan_.query_stretch);
  }

 private:
  BackwardLaunch long_pass(BackwardPass pass, PairRule rule, bool add) const {
    BackwardLaunch launch = common_;
    launch.pass = pass;
    launch.rule = rule;
    launch.add = add;
    launch.long_only = true;
    return launch;
  }

  void keys_of_spans() const {
    if (!plan_.spans) return;
    const PairRule rule = plan_.path.lsh ? PairRule::own_not_lsh : PairRule::own;
    keys(long_pass(BackwardPass::stretch, rule, false), int64_t{1} << plan_.stretch_log2);
  }

  void keys(BackwardLaunch pass, int64_t tile) const {
    if (!p_.dk && !p_.dv) return;
    launch_(keys_kernel<S>, blocks(pass, p_.k_heads, tile), S::kThreads, sizeof(KeysShared<S>), p_,
            pass);
  }
  void queries(BackwardLaunch pass, int64_t tile) const {
    if (!p_.dq) return;
    launch_(queries_kernel<S>, blocks(pass, p_.q_heads, tile), S::kThreads,
            sizeof(QueriesShared<S>), p_, pass);
  }
  int64_t blocks(BackwardLaunch& pass, int64_t heads, int64_t tile) const {
    const int64_t places = Tiling{tile}.places(p_.sequences);
    pass.places = static_cast<int32_t>(places);
    pass.group = static_cast<int32_t>(p_.group());
    return p_.sequences.batch * heads * places;
  }

  const device::Launcher& launch_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  BackwardLaunch common_ = {};
};

// Calls f with the first shape that takes the widths, or the last one.
template <class First, class... Rest, class F>
void dispatch_shape(int64_t d_qk, int64_t d_v, F&& f) {
  if constexpr (sizeof...(Rest) > 0) {
    if (d_qk > First::kQk || d_v > First::kV) return dispatch_shape<Rest...>(d_qk, d_v, f);
  }
  f(TypeTag<First>{});
}

template <class T>
void launch_backward(const device::Launcher& launch, const BackwardParams& p,
                     const CudaBackwardPlan& plan) {
  const auto run = [&](auto shape) {
    BackwardPasses<typename decltype(shape)::type>(launch, p, plan).run();
  };
  if constexpr (type_of<T> == Type::fp32) {
    dispatch_shape<BackwardShape<T, 64, 128, 4, 2, 32, 1, 1>,
                   BackwardShape<T, 256, 256, 1, 4, 16, 1, 1>>(p.d_qk, p.d_v, run);
  } else {
    dispatch_shape<
        BackwardShape<T, 32, 128, 4, 2, 32, 2, 2>, BackwardShape<T, 64, 128, 4, 2, 32, 2, 2>,
        BackwardShape<T, 128, 128, 4, 2, 32, 2, 2>, BackwardShape<T, 256, 256, 2, 2, 32, 2, 2>>(
        p.d_qk, p.d_v, run);
  }
}

}  // namespace hax::sparse_attention
