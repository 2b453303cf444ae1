// Which keys a tile of queries meets, in steps of at most kKeys keys. Every warp walks by itself, so that all take
// the same steps without a barrier; lane n holds the step's key n.
#pragma once

#include <climits>

#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"

namespace hax::sparse_attention {

// A tile's queries together.
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

// Bounds of the queries that a warp's lanes give, one or two each.
__device__ inline TileBounds bounds_of(const Query& a, const Query& b) {
  TileBounds bounds = {INT_MAX, -1, INT_MAX, 0};
  const auto include = [&](const Query& q) {
    if (q.position < 0) return;
    bounds.first = min(bounds.first, q.position);
    bounds.last = max(bounds.last, q.position);
    if (q.end <= q.begin) return;
    bounds.begin = min(bounds.begin, q.begin);
    bounds.end = max(bounds.end, q.end);
  };
  include(a);
  include(b);
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
  const SelectedKey* list;  // of Source::list, whose keys count only in [list_begin, list_end)
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
  // Keys of the list in [begin, end), without dilated ones.
  __device__ void add_list(Rule rule, const SelectionList& selected, int64_t begin, int64_t end) {
    list = selected.keys;
    list_begin = static_cast<int32_t>(begin);
    list_end = static_cast<int32_t>(end);
    add(Source::list, rule, 0, selected.length);
  }
};

// All that it reads lies in shared memory, so that it takes few registers.
template <int kKeys>
class KeyWalk {
 public:
  // queries: the tile's 64.
  __device__ KeyWalk(const PatternView& view, const WalkPlan& plan, const Query* queries,
                     const TileBounds& bounds)
      : view_(view),
        plan_(plan),
        queries_(queries),
        bounds_(bounds),
        lane_(static_cast<int32_t>(threadIdx.x % 32)) {}

  __device__ void start() {
    at_ = -1;
    x_ = segment_.end = 0;
    fetch();
  }

  // The next step's keys, one for each lane, and their rule; false when there is none.
  __device__ bool next(Key& key, Rule& rule) {
    while (fetched_) {
      key = ahead_;
      rule = segment_.rule;
      fetch();
      if (__any_sync(0xffffffffu, Coverage(key, bounds_, rule).some)) return true;
    }
    return false;
  }

 private:
  // Reads the keys of the step after the one at hand, whether or not they matter.
  __device__ void fetch() {
    while (true) {
      if (x_ < segment_.end && segment_.source == Source::order) x_ = next_looked_up(x_);
      if (x_ < segment_.end) break;
      fetched_ = ++at_ < plan_.count;
      if (!fetched_) return;
      segment_ = plan_.segments[at_];
      x_ = segment_.begin;
    }
    const int32_t x = x_ + lane_;
    ahead_ = lane_ < kKeys && x < segment_.end ? read(x) : Key{};
    x_ += kKeys;
  }

  // The step at or behind x whose keys some query looks up.
  __device__ int32_t next_looked_up(int32_t x) const {
    int32_t least = INT_MAX;
#pragma unroll
    for (int i = 0; i < kTileTokens; i += 32) {
      const Query& q = queries_[lane_ + i];
      if (q.end > x && q.end > q.begin) least = min(least, max(q.begin, x));
    }
    return __reduce_min_sync(0xffffffffu, least) / kKeys * kKeys;
  }

  __device__ Key read(int32_t x) const {
    if (segment_.source == Source::order) return {view_.ordered(x), 0, x};
    if (segment_.source == Source::list) {
      const auto entry = __ldg(reinterpret_cast<const int2*>(plan_.list) + x);
      const int32_t j = entry.x;
      if (j < plan_.list_begin || j >= plan_.list_end || view_.endless(j)) return {};
      return {j, static_cast<uint32_t>(entry.y - j), view_.rank_of(j)};
    }
    if (segment_.source == Source::dilated) {
      x = static_cast<int32_t>((x + 1) * view_.dilation - 1);
      return {x, kEndless, view_.rank_of(x)};
    }
    return {x, view_.span(x), view_.rank_of(x)};
  }

  const PatternView& view_;
  const WalkPlan& plan_;
  const Query* const queries_;
  const TileBounds& bounds_;
  const int32_t lane_;
  int at_ = 0;
  Segment segment_ = {};
  int32_t x_ = 0;  // where the next fetch reads
  Key ahead_;
  bool fetched_ = false;
};

}  // namespace hax::sparse_attention
