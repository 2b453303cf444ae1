#include <algorithm>

#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "hash/key_score/key_score_kernel_backward.cuh"
#include "hash/key_score/key_score_kernel_prepare.cuh"
#include "hash/key_score/key_score_kernel_short.cuh"
#include "hash/key_score/key_score_kernel_short_backward.cuh"

namespace hax::key_score {

namespace {

void scan(const Inputs& p, const CudaQueryPlan& plan, const device::Launcher& launch) {
  if (p.sequences.longest <= kDirectTiles * kCudaTileTokens) return;
  launch(scan_kernel, p.sequences.count() * p.heads, kScanThreads, 0, p, plan);
}

// What the kernels for short sequences read with wider accesses.
struct ShortAccess {
  bool vectors;       // features, eight at once
  bool weight_pairs;  // of an even number of features none stands alone

  explicit ShortAccess(const Inputs& p)
      : vectors(features_move_in_vectors(p.q) && features_move_in_vectors(p.k)),
        weight_pairs(p.W1.type == p.W2.type && device::moves_in_vectors<2>(p.W1) &&
                     device::moves_in_vectors<2>(p.W2) && p.features % 2 == 0) {}
};

}  // namespace

int64_t cuda_weight_words(const Inputs& p) { return mlp_shape(p).words(pieces_of(p.q.type)); }

CudaBackwardSizes cuda_backward_sizes(const Inputs& p) {
  const BackwardShape shape(p);
  // Three blocks a multiprocessor, as gradients are few and a batch takes long; fewer where a part is large.
  constexpr int64_t kParts = 396, kFloats = int64_t{8} << 20;
  const int64_t parts = std::max<int64_t>(8, std::min(kParts, kFloats / shape.gradient_floats()));
  const int64_t tiles = p.cuda_tiles().slots() * p.heads;
  return {3 * shape.matrix(), p.short_rows() ? std::min<int64_t>(kShortParts, tiles) : 0,
          p.long_rows() ? std::min(parts, tiles) : 0, shape.gradient_floats()};
}

void cuda_forward(const ForwardParams& p, const CudaForwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  const int64_t tiles = p.cuda_tiles().slots() * p.heads;
  if (p.sequences.batch * p.heads * p.sequences.length == 0) return;
  const MlpShape shape = mlp_shape(p);
  dispatch_float(p.q.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      if (p.short_rows()) {
        const ShortAccess access(p);
        launch.early(short_kernel<T>, tiles, kQueryThreads, 0, p, access.vectors,
                     access.weight_pairs);
      }
      if (!p.long_rows()) return;
    }
    const int64_t packing = 2 * ceil_div(shape.steps * shape.blocks * kWarp, kQueryThreads);
    launch(prepare_kernel<T>, tiles + 1 + packing, kQueryThreads, 0, p, plan);
    scan(p, plan.query, launch);
    if (narrow(p)) {
      const bool vectors = features_move_in_vectors(p.k);
      return launch(narrow_kernel<T>, tiles, kQueryThreads, 0, p, plan, vectors);
    }
    launch(score_kernel<T>, tiles, kQueryThreads, shape.shared_bytes(kPieces<T>), p, plan);
  });
}

void cuda_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  const int64_t tiles = p.cuda_tiles().slots() * p.heads;
  const BackwardShape shape(p);
  dispatch_float(p.q.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      const ShortAccess access(p);
      launch.early(short_gradient_kernel<T>, plan.short_parts, kQueryThreads,
                   sizeof(ShortBackwardMemory<T>), p, plan, access.vectors, access.weight_pairs);
    }
    if (plan.parts == 0) return;
    launch(prepare_backward_kernel<T>, tiles + ceil_div(3 * shape.matrix(), kQueryThreads),
           kQueryThreads, 0, p, plan);
    scan(p, plan.query, launch);
    launch(gradient_kernel<T>, plan.parts, kQueryThreads, shape.shared_bytes(), p, plan);
  });
  launch.early(reduce_kernel, ceil_div(shape.gradient_floats(), kReduceGradients), kQueryThreads, 0,
               p, plan);
}

}  // namespace hax::key_score
