// Backward's launches for one activation type; each type has a .cu file of its own.
#pragma once

#include "attention/sparse_attention/sparse_attention_backward_tiles_launch.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_finish.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_keys.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_queries.cuh"
#include "core/integer.hpp"

namespace hax::sparse_attention {

// The kernels of a call with tiles of one shape.
template <class S>
class BackwardPasses {
 public:
  BackwardPasses(const device::Launcher& launch, const BackwardParams& p,
                 const CudaBackwardPlan& plan)
      : launch_(launch), p_(p), plan_(plan) {
    common_.access = access_of<typename S::T>(p);
    common_.plan = plan;
    common_.group = static_cast<int32_t>(p.group());
  }

  void run() const {
    const CudaPath& path = plan_.path;
    if (plan_.one_interval || path.dense) all_pairs();
    if (!path.sparse || plan_.one_interval) return;
    const PairRule rule = path.lsh ? PairRule::own_not_lsh : PairRule::own;
    if (plan_.spans) {
      const BackwardLaunch stretches = long_pass(BackwardPass::stretch, rule, false);
      tiles(TilePass::stretch, stretches);  // which leaves some, or all, to the others
      if (!tiles(TilePass::stretch_keys, stretches)) {
        keys(stretches, int64_t{1} << plan_.stretch_log2);
      }
      if (!tiles(TilePass::stretch_queries, stretches)) queries(stretches, plan_.query_stretch);
    }
    if (path.lsh) {
      lookups();
    } else if (p_.dk || p_.dv) {
      const int64_t elements = p_.sequences.batch * p_.k_heads * p_.sequences.length;
      launch_(finish_kernel<typename S::T>, ceil_div(elements * 32, kFinishThreads), kFinishThreads,
              0, p_, plan_);
    }
    if (!plan_.spans) return;
    const BackwardLaunch direct = long_pass(BackwardPass::direct, rule, path.lsh);
    if (!tiles(TilePass::direct_keys, direct)) keys(direct, S::kStay);
  }

 private:
  void all_pairs() const {
    BackwardLaunch pass = common_;
    pass.pass = BackwardPass::neighbours;
    pass.rule = plan_.path.lsh ? PairRule::either : PairRule::own;
    pass.short_only = !plan_.one_interval;
    pass.sums_delta = sums_delta_itself<typename S::T>(p_, plan_);
    if (tiles(TilePass::dense, pass)) return;
    keys(pass, S::kStay);
    queries(pass, S::kStay);
  }
  void lookups() const {
    const BackwardLaunch of_keys = long_pass(BackwardPass::order, PairRule::lsh, false);
    if (!tiles(TilePass::lookup_keys, of_keys)) keys(of_keys, S::kStay);
    const BackwardLaunch of_queries = long_pass(BackwardPass::order, PairRule::lsh, plan_.spans);
    if (!tiles(TilePass::lookup_queries, of_queries)) queries(of_queries, S::kStay);
  }
  // Runs a kernel for 16 bits; false where that doesn't take the types, the widths or the GPU.
  bool tiles(TilePass kind, const BackwardLaunch& pass) const {
    using T = typename S::T;
    if constexpr (type_of<T> != Type::fp32) {
      return plan_.dense_tiles && launch_tiles<T>(launch_, p_, kind, pass);
    }
    return false;
  }

  BackwardLaunch long_pass(BackwardPass pass, PairRule rule, bool add) const {
    BackwardLaunch launch = common_;
    launch.pass = pass;
    launch.rule = rule;
    launch.add = add;
    launch.long_only = true;
    return launch;
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
    return p_.sequences.batch * heads * places;
  }

  const device::Launcher& launch_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  BackwardLaunch common_ = {};
};

template <class T>
void launch_backward(const device::Launcher& launch, const BackwardParams& p,
                     const CudaBackwardPlan& plan) {
  const auto run = [&](auto shape) {
    BackwardPasses<typename decltype(shape)::type>(launch, p, plan).run();
  };
  if constexpr (type_of<T> == Type::fp32) {
    dispatch_shape<BackwardShape<T, 64, 128, 4, 2, 32, 1, 1>,
                   BackwardShape<T, 256, 256, 1, 4, 16, 1, 1, 1>>(p.d_qk, p.d_v, run);
  } else {
    run(TypeTag<BackwardShape<T, 256, 256, 2, 2, 32, 2, 2, 1>>{});  // wider than the tiles
  }
}

}  // namespace hax::sparse_attention
