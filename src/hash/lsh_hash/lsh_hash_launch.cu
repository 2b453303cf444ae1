#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "hash/lsh_hash/lsh_hash_kernel_project.cuh"

namespace hax::lsh_hash {
namespace {

// Shared memory of project_kernel.
size_t project_bytes(const Params& p, int columns) {
  const int64_t R = feature_steps(p.features) * columns * kRPieces * kWarp;
  int64_t rest = 0;
  if (p.statistics == HAX_LSH_STATISTICS_SEQUENCE) rest = kHeadGroup * 3 * p.features;
  if (p.statistics == HAX_LSH_STATISTICS_CAUSAL) {
    rest = causal_tokens(p.features) * causal_row(p.features);
  }
  return R * sizeof(uint2) + rest * sizeof(float);
}

}  // namespace

void cuda_forward(const Params& p, const CudaPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  const int64_t tiles = p.cuda_tiles().slots() * p.heads;
  if (p.sequences.batch * p.heads * p.sequences.length == 0) return;
  const bool vectors = features_move_in_vectors(p.x);
  dispatch_float(p.x.type, [&](auto type) {
    using T = typename decltype(type)::type;
    const bool plain = p.statistics == HAX_LSH_STATISTICS_NONE;
    if (!plain) {
      launch(sums_kernel<T>, tiles, kSumThreads, 0, p, plan);
      const bool few = p.sequences.length <= 32 * kCudaTileTokens;
      launch(scan_kernel<T>, p.sequences.count() * p.heads, few ? 256 : kScanThreads, 0, p, plan);
    }
    // Columns of 8 bits: as many as a code of 16 or a panel of 32 bits has.
    dispatch_value<2, 4>(p.bits <= 16 ? 2 : 4, [&](auto columns) {
      const size_t bytes = project_bytes(p, columns.value);
      launch(
          plain ? project_kernel<T, columns.value, true> : project_kernel<T, columns.value, false>,
          tiles, kProjectThreads, bytes, p, plan, vectors);
    });
  });
}

}  // namespace hax::lsh_hash
