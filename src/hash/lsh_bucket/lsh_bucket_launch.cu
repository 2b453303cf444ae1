#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "hash/lsh_bucket/lsh_bucket_kernel_long.cuh"
#include "hash/lsh_bucket/lsh_bucket_kernel_short.cuh"

namespace hax::lsh_bucket {
namespace {

template <class K>
void run(const Params& p, const CudaPlan& plan, const device::Launcher& launch) {
  const int64_t rows = p.sequences.count() * p.key_heads;
  if (plan.short_rows) launch(short_kernel<K>, rows, kThreads, sizeof(ShortMemory<K>), p);
  if (!plan.long_rows) return;
  const int64_t slots = p.cuda_tiles().slots();
  for (int digit = 0; digit < Digit::count(p.num_bits); ++digit) {
    launch(count_kernel<K>, slots * p.key_heads, kThreads, 0, p, plan, digit);
    launch(place_kernel, rows, kThreads, 0, p, plan);
    launch(move_kernel<K>, slots * p.key_heads, kThreads, 0, p, plan, digit);
  }
  launch(starts_kernel<K>, slots * p.key_heads, kThreads, 0, p, plan);
  launch(range_kernel<K>, slots * p.query_heads, kThreads, 0, p, plan);
}

}  // namespace

void cuda_forward(const Params& p, const CudaPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  if (p.sequences.batch * p.key_heads * p.sequences.length == 0) return;
  if (p.num_bits <= 32) {
    run<uint32_t>(p, plan, launch);
  } else {
    run<uint64_t>(p, plan, launch);
  }
}

}  // namespace hax::lsh_bucket
