// Which keys a tile of queries meets, in steps of at most kKeys keys. The warps prepare a batch of steps side by side,
// one each, while an earlier batch is being worked on.
#pragma once

#include <climits>

#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"

namespace hax::sparse_attention {

// Some queries together.
struct TileBounds {
  int32_t first, last;  // least and greatest position
  int32_t begin, end;   // of the ranges in key_order that aren't empty
};

// Whether some, and whether all queries within bounds select a key as their own, or some by LSH.
struct Coverage {
  bool some = false, all = false;
  __device__ Coverage(const Key& key, const TileBounds& b, Rule rule) {
    if (key.position < 0 || key.position > b.last) return;
    const auto ago = [&](int32_t i) { return static_cast<uint32_t>(max(i - key.position, 0)); };
    some = (ago(b.first) < key.span) |
           ((rule == Rule::lsh) & (key.rank >= b.begin) & (key.rank < b.end));
    all = rule == Rule::own && key.position <= b.first && ago(b.last) < key.span;
  }
};

// Bounds of the queries that a warp's lanes give.
__device__ inline TileBounds bounds_of(const Query& q) {
  TileBounds bounds = {INT_MAX, -1, INT_MAX, 0};
  if (q.position >= 0) bounds.first = bounds.last = q.position;
  if (q.position >= 0 && q.end > q.begin) {
    bounds.begin = q.begin;
    bounds.end = q.end;
  }
  bounds.first = __reduce_min_sync(0xffffffffu, bounds.first);
  bounds.last = __reduce_max_sync(0xffffffffu, bounds.last);
  bounds.begin = __reduce_min_sync(0xffffffffu, bounds.begin);
  bounds.end = __reduce_max_sync(0xffffffffu, bounds.end);
  return bounds;
}

// Where keys come from.
enum class Source {
  interval,  // neighbours
  dilated,
  list,   // of key selection
  few,    // all keys ever selected
  order,  // key_order
};

// Keys by position, number among the dilated ones, entry of the list or of key_order.
struct Segment {
  Source source;
  Rule rule;
  int32_t begin, end;
};

// A tile's walk as shared memory keeps it: one thread plans it, all warps read it.
struct WalkPlan {
  static constexpr int kMaxSegments = 4;

  Segment segments[kMaxSegments];
  int count;
  const SelectedKey* few;  // of Source::few
  const int32_t* list;     // of Source::list, whose keys count only in [list_begin, list_end)
  int32_t list_begin, list_end;

  __device__ void add(Source source, Rule rule, int64_t begin, int64_t end) {
    if (begin < end) {
      segments[count++] = {source, rule, static_cast<int32_t>(begin), static_cast<int32_t>(end)};
    }
  }
  // Dilated keys in [begin, end): number x is key x d + d - 1.
  __device__ void add_dilated(Rule rule, int64_t begin, int64_t end, int64_t d) {
    add(Source::dilated, rule, begin / d, end / d);
  }
  __device__ void add_few(Rule rule, const FewSelected& selected) {
    few = selected.keys;
    add(Source::few, rule, 0, selected.length);
  }
  // Keys of the list in [begin, end), without dilated ones.
  __device__ void add_list(Rule rule, const SelectionList& selected, int64_t begin, int64_t end) {
    list = selected.keys;
    list_begin = static_cast<int32_t>(begin);
    list_end = static_cast<int32_t>(end);
    add(Source::list, rule, 0, selected.length);
  }
};

// A step: its keys, and bit w of `some` and `all` for whether some, and all of warp w's queries select some, and all of
// them.
template <int kKeys>
struct alignas(16) Step {
  int32_t position[kKeys];
  uint32_t span[kKeys];
  int32_t rank[kKeys];
  Rule rule;
  uint32_t some, all;
};

template <int kKeys, int kWarps>
struct WalkShared {
  PatternView view;
  WalkPlan plan;
  Query queries[kTileTokens];
  TileBounds bounds[kWarps];  // of each warp's queries
  Step<kKeys> steps[2 * kWarps];
};

template <int kKeys, int kWarps>
class KeyWalk {
 public:
  using Shared = WalkShared<kKeys, kWarps>;

  __device__ explicit KeyWalk(Shared& shared)
      : shared_(shared),
        lane_(static_cast<int32_t>(threadIdx.x % 32)),
        warp_(static_cast<int32_t>(threadIdx.x / 32)) {}

  __device__ void start() {
    at_ = -1;
    x_ = segment_.end = 0;
    remaining_ = 0;
    half_ = 1;
    ahead_ = fetch();
    state_ = State::fetched;
  }

  // To be called behind every barrier of the block.
  __device__ void passed_barrier() {
    if (state_ == State::stored) state_ = State::visible;
  }
  // To be called some time after next(), when what it fetched has arrived.
  __device__ void settle() {
    if (ahead_ && state_ == State::fetched) store();
  }

  // The number of the next step that some query needs, until the next call; -1 when there is none. The whole block
  // calls it together and receives the same.
  __device__ int next() {
    while (remaining_ == 0) {
      if (!ahead_) return -1;
      if (state_ == State::fetched) store();
      if (state_ == State::stored) __syncthreads();
      half_ ^= 1;
      const bool needed = lane_ < kWarps && shared_.steps[half_ * kWarps + lane_ % kWarps].some;
      remaining_ = __ballot_sync(0xffffffffu, needed);
      ahead_ = fetch();
      state_ = State::fetched;
    }
    const int step = __ffs(static_cast<int>(remaining_)) - 1;
    remaining_ &= remaining_ - 1;
    return half_ * kWarps + step;
  }

 private:
  // How far the batch ahead has come.
  enum class State { fetched, stored, visible };

  // Reads this warp's step of the following batch; false if no warp has one.
  __device__ bool fetch() {
    if (x_ < segment_.end && segment_.source == Source::order) x_ = next_looked_up(x_);
    bool any = false;
    for (int s = 0; s < kWarps; ++s) {
      while (x_ >= segment_.end && at_ + 1 < shared_.plan.count) {
        segment_ = shared_.plan.segments[++at_];
        x_ = segment_.begin;
        if (segment_.source == Source::order) x_ = next_looked_up(x_);
        if (segment_.source == Source::few) x_ = first_living();
      }
      const bool there = x_ < segment_.end;
      any |= there;
      if (s == warp_) {
        const int32_t x = x_ + lane_;
        fetched_ = there && lane_ < kKeys && x < segment_.end ? read(x) : Key{};
        fetched_rule_ = segment_.rule;
      }
      if (there) x_ += kKeys;
    }
    return any;
  }

  // Shows it to the other warps.
  __device__ void store() {
    Step<kKeys>& step = shared_.steps[(half_ ^ 1) * kWarps + warp_];
    if (lane_ < kKeys) {
      step.position[lane_] = fetched_.position;
      step.span[lane_] = fetched_.span;
      step.rank[lane_] = fetched_.rank;
    }
    uint32_t some = 0, all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const Coverage coverage(fetched_, shared_.bounds[w], fetched_rule_);
      if (__any_sync(0xffffffffu, coverage.some)) some |= 1u << w;
      if (__all_sync(0xffffffffu, coverage.all | (lane_ >= kKeys))) all |= 1u << w;
    }
    if (lane_ == 0) {
      step.rule = fetched_rule_;
      step.some = some;
      step.all = all;
    }
    state_ = State::stored;
  }

  // The step at or behind x whose keys some query looks up.
  __device__ int32_t next_looked_up(int32_t x) const {
    int32_t least = INT_MAX;
#pragma unroll
    for (int i = 0; i < kTileTokens; i += 32) {
      const Query& q = shared_.queries[lane_ + i];
      if (q.end > x && q.end > q.begin) least = min(least, max(q.begin, x));
    }
    return __reduce_min_sync(0xffffffffu, least) / kKeys * kKeys;
  }

  // The few keys are sorted by eviction: a step before which none outlives the tile's first query.
  __device__ int32_t first_living() const {
    int32_t first = INT_MAX;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) first = min(first, shared_.bounds[w].first);
    const int32_t end = segment_.end;
    const int32_t stride = ((end + 31) / 32 + kKeys - 1) / kKeys * kKeys;  // of a lane
    const int32_t begin = lane_ * stride, last = min(begin + stride, end) - 1;
    const bool living = begin < end && shared_.plan.few[last].eviction > first;
    const uint32_t votes = __ballot_sync(0xffffffffu, living);
    return votes == 0 ? end : (__ffs(static_cast<int>(votes)) - 1) * stride;
  }

  __device__ Key read(int32_t x) const {
    const PatternView& view = shared_.view;
    if (segment_.source == Source::order) return {view.ordered(x), 0, x};
    if (segment_.source == Source::few) {
      const SelectedKey entry = shared_.plan.few[x];
      return {entry.key, static_cast<uint32_t>(entry.eviction - entry.key),
              view.rank_of(entry.key)};
    }
    if (segment_.source == Source::list) {
      const int32_t j = shared_.plan.list[x];
      if (j < shared_.plan.list_begin || j >= shared_.plan.list_end || view.endless(j)) return {};
      return {j, view.life(j), view.rank_of(j)};
    }
    if (segment_.source == Source::dilated) {
      x = static_cast<int32_t>((x + 1) * view.dilation - 1);
      return {x, kEndless, view.rank_of(x)};
    }
    return {x, view.span(x), view.rank_of(x)};
  }

  Shared& shared_;
  const int32_t lane_, warp_;
  int at_ = 0;
  Segment segment_ = {};
  int32_t x_ = 0;           // where the next batch begins
  uint32_t remaining_ = 0;  // steps of the batch at hand, as bits
  int half_ = 0;            // where it lies
  bool ahead_ = false;      // whether there is one behind it
  State state_ = State::fetched;
  Key fetched_;
  Rule fetched_rule_ = Rule::own;
};

}  // namespace hax::sparse_attention
