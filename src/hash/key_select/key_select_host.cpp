#include <algorithm>
#include <bit>
#include <functional>

#include "core/parallel.hpp"
#include "hash/key_select/key_select.hpp"

namespace hax::key_select {
namespace {

// A key's rank as one number, greater for a better key: the score's order in the upper half, with NaN
// lowest and -0 equal to 0, and the position, earlier ones greater, in the lower.
uint64_t rank_of(float score, int64_t position) {
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);
  uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  if (score != score) order = 0;
  return uint64_t{order} << 32 | (0xffffffffu - static_cast<uint32_t>(position));
}

int64_t position_of(uint64_t rank) { return 0xffffffffu - static_cast<uint32_t>(rank); }

// Puts `rank` in the place of the least element of a heap that has its least element on top.
void replace_top(uint64_t* heap, int64_t size, uint64_t rank) {
  int64_t hole = 0;
  for (int64_t child = 1; child < size; child = 2 * hole + 1) {
    if (child + 1 < size) child += heap[child + 1] < heap[child];
    if (rank <= heap[child]) break;
    heap[hole] = heap[child];
    hole = child;
  }
  heap[hole] = rank;
}

void select(const Params& p, const Sequences::Range& range, int64_t head, uint64_t* heap) {
  if (range.length == 0) return;
  const float* score = p.score.at<float>(range.row, head, range.begin);
  int32_t* eviction = p.eviction.at<int32_t>(range.row, head, range.begin);
  const int64_t score_stride = p.score.stride[2], eviction_stride = p.eviction.stride[2];
  const int64_t kept = std::min(p.budget, range.length);
  for (int64_t j = 0; j < kept; ++j) {
    heap[j] = rank_of(score[j * score_stride], j);
    eviction[j * eviction_stride] = static_cast<int32_t>(range.length);
  }
  if (kept == range.length) return;
  std::make_heap(heap, heap + kept, std::greater<>());
  for (int64_t j = kept; j < range.length; ++j) {
    const uint64_t rank = rank_of(score[j * score_stride], j);
    int64_t leaves = j;
    if (rank > heap[0]) {
      leaves = position_of(heap[0]);
      replace_top(heap, kept, rank);
      eviction[j * eviction_stride] = static_cast<int32_t>(range.length);
    }
    eviction[leaves * eviction_stride] = static_cast<int32_t>(j);
  }
}

}  // namespace

void host_forward(const Params& p, const Plan& plan, int num_threads) {
  parallel_for(num_threads, p.sequences.count() * p.heads, [&](int64_t task, int thread) {
    select(p, p.sequences.range(task / p.heads), task % p.heads,
           plan.selected + thread * plan.capacity);
  });
}

}  // namespace hax::key_select
