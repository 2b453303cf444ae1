// Tokens projected as they are, whatever sequence they belong to.
#pragma once

#include "device/early_start.cuh"
#include "hash/lsh_hash/lsh_hash_kernel_project.cuh"

namespace hax::lsh_hash {

inline constexpr int kPlainBlocks = 2;  // of a multiprocessor; three leave too few registers

// As many blocks as there is room for at once share out groups of kRows tokens evenly.
template <class T, int Columns>
__global__ void __launch_bounds__(kProjectThreads, kPlainBlocks)
    plain_kernel(const __grid_constant__ Params p, bool vectors) {
  extern __shared__ uint4 memory[];
  device::wait_for_previous();
  device::start_next();
  uint2* R = reinterpret_cast<uint2*>(memory);
  const int64_t length = p.sequences.length, each = ceil_div(length, kRows);
  const int groups = head_groups(p.heads);
  const int64_t total = p.sequences.batch * groups * each;
  const int64_t first = total * blockIdx.x / gridDim.x, last = total * (blockIdx.x + 1) / gridDim.x;
  for (int panel = 0; panel * kPanelBits < p.bits; ++panel) {
    __syncthreads();
    load_projection<Columns>(p, panel, R);
    __syncthreads();
    for (int64_t i = first; i < last;) {
      const int64_t row = i / each / groups, head = i / each % groups * kHeadGroup;
      const int64_t begin = i % each, end = min(begin + last - i, each);
      const TokenReader<T> reader{
          p, {row, {row, 0, length}, 0, length}, head, vectors, nullptr, nullptr, 0, 0};
      project_tokens<T, Columns, kExactPieces<T>>(
          reader, R, begin * kRows, min(end * kRows, length),
          static_cast<int>(min(int64_t{kHeadGroup}, p.heads - head)), panel);
      i += end - begin;
    }
  }
}

}  // namespace hax::lsh_hash
