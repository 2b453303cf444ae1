#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "hash/key_select/key_select_kernel_best.cuh"
#include "hash/key_select/key_select_kernel_head.cuh"
#include "hash/key_select/key_select_kernel_large.cuh"
#include "hash/key_select/key_select_kernel_scan.cuh"

namespace hax::key_select {

void cuda_forward(const Params& p, const Plan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  if (p.sequences.length == 0) return;
  const int64_t rows = p.sequences.count() * p.heads;
  if (plan.listed == 0) return launch(large_kernel, rows, kLargeThreads, 0, p, plan);
  dispatch_value<1, 2, 4, 8>(plan.listed / kWarp, [&](auto v) {
    constexpr int V = v.value, kListed = kWarp * V;
    const int64_t chunks = p.chunks().slots() * p.heads;
    if (!plan.several) {
      return launch.early(short_kernel<V>, rows, kShortThreads, sizeof(ShortMemory<V>), p);
    }
    launch(head_kernel<V>, 2 * rows, kShortThreads, sizeof(ShortMemory<V>), p, plan);
    launch(best_kernel<kListed>, chunks, kBestThreads, 0, p, plan);
    launch(scan_kernel<V>, rows, kScanWarps * kWarp, kScanWarps * kListed * sizeof(uint64_t), p,
           plan);
    launch(walk_kernel<V>, ceil_div(chunks, kWalkWarps), kWalkWarps * kWarp, 0, p, plan);
  });
}

}  // namespace hax::key_select
