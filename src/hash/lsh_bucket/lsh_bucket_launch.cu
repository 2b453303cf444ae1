#include "device/launch.cuh"
#include "hash/lsh_bucket/lsh_bucket_kernel_ranges.cuh"
#include "hash/lsh_bucket/lsh_bucket_kernel_short.cuh"

namespace hax::lsh_bucket {
namespace {

template <class Key>
void run_short(const Params& p, const device::Launcher& launch) {
  launch.early(short_kernel<Key>, p.sequences.count() * p.key_heads, kShortThreads,
               sizeof(ShortMemory<Key>), p);
}

template <class K>
void run_long(const Params& p, const CudaPlan& plan, const device::Launcher& launch) {
  const int64_t rows = p.sequences.count() * p.key_heads;
  const int64_t slots = p.cuda_tiles().slots();
  for (int digit = 0; digit < Digit::count(p.num_bits); ++digit) {
    launch(count_kernel<K>, slots * p.key_heads, kTileThreads, 0, p, plan, digit);
    if (p.sequences.longest > kDirectTiles * kCudaTileTokens) {
      launch(place_kernel, rows, kPlaceThreads, 0, p, plan);
    }
    launch(move_kernel<K>, slots * p.key_heads, kTileThreads, 0, p, plan, digit);
  }
  if (Digit::count(p.num_bits) > 1) {
    launch(starts_kernel<K>, slots * p.key_heads, kTileThreads, 0, p, plan);
  }
  launch(range_kernel<K>, slots * p.query_heads * kRangeParts, kRangeThreads, 0, p, plan);
}

}  // namespace

void cuda_forward(const Params& p, const CudaPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  if (p.sequences.batch * p.key_heads * p.sequences.length == 0) return;
  if (plan.short_rows) {
    p.num_bits <= JointKey::kMaxBits ? run_short<JointKey>(p, launch)
                                     : run_short<SplitKey>(p, launch);
  }
  if (plan.long_rows) {
    p.num_bits <= 32 ? run_long<uint32_t>(p, plan, launch) : run_long<uint64_t>(p, plan, launch);
  }
}

}  // namespace hax::lsh_bucket
