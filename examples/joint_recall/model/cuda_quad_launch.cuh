// Launches of kernels over tiles of 16 rows, and what their operands must be.
#pragma once

#include <algorithm>

#include "model/cuda_quads.cuh"

namespace joint_recall::cuda_quads {

constexpr int kQuadThreads = 256;
constexpr int64_t kQuadRows = kQuadThreads / kWarp * kTile;  // of a block
constexpr int64_t kWeightBytes = 48 * 1024;  // in shared memory at a time, where it can be in parts
constexpr int64_t kSharedByDefault = 48 * 1024;
constexpr int64_t kMostSharedBytes = 96 * 1024;

// Of one type, every octet movable at once; absent ones are.
inline bool are_whole(std::initializer_list<ConstTokens> matrices, Element element) {
  return std::all_of(matrices.begin(), matrices.end(), [&](const ConstTokens& m) {
    return !m.present() || (m.element == element && has_whole_octets(m));
  });
}

// Calls f<groups>() where one of the numbers of groups makes that many columns.
template <int... kNumbers, class F>
bool with_groups(int64_t columns, const F& f) {
  return ((columns == kNumbers * kGroup && (f.template operator()<kNumbers>(), true)) || ...);
}

// Rows of a weight of so many groups that are kept in shared memory at a time.
inline int rows_in_shared(int rows, int groups) {
  const auto most = static_cast<int>(kWeightBytes / (groups * kGroup * 2) / kGroup * kGroup);
  return std::min(groups_of(rows) * kGroup, most);
}

template <class Params>
void launch_quads(void (*kernel)(Params), cudaStream_t stream, int64_t rows, int64_t shared_bytes,
                  const Params& params, int threads = kQuadThreads) {
  const int64_t blocks = blocks_for(rows, threads / kWarp * kTile);
  if (blocks == 0) return;
  if (shared_bytes > kSharedByDefault) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               "asking for shared memory");
  }
  kernel<<<static_cast<unsigned>(blocks), threads, static_cast<size_t>(shared_bytes), stream>>>(
      params);
  check_launch("launching over tiles of rows");
}

}  // namespace joint_recall::cuda_quads
