// Which keys a query attends, as lists of positions, each key once.
#pragma once

#include "attention/sparse_attention/sparse_attention.hpp"
#include "core/simd.hpp"

namespace hax::sparse_attention {
inline namespace HAX_CPU_LEVEL_NAME {

inline constexpr int kListKeys = 256;  // longest piece of a list; longer lists come in pieces

// One head's stretch of an index tensor; the default holds 0 everywhere.
struct IndexRow {
  static constexpr int32_t kZero = 0;
  const int32_t* data = &kZero;
  int64_t stride = 0;

  HAX_INLINE int64_t operator[](int64_t i) const { return data[i * stride]; }
};

// A piece of a query's list, padded with copies of its last key so that kernels may read whole groups.
struct KeyPiece {
  int count;
  int32_t keys[kListKeys + simd::kLanes];

  HAX_INLINE void pad() {
    for (int i = 0; i < simd::kLanes; ++i) keys[count + i] = keys[count - 1];
  }

  // Keys [begin, end), at most kListKeys and at least one.
  HAX_INLINE void fill_range(int64_t begin, int64_t end) {
    count = static_cast<int>(end - begin);
    for (int i = 0; i < count; ++i) keys[i] = static_cast<int32_t>(begin + i);
    pad();
  }
};

// The patterns other than `full`, on one key head of one sequence. Queries are visited in ascending
// order: start(i) once, then for every i one advance(i) and for every query head one select() and as many
// next() as there are pieces. Pieces come in the same order wherever the visit started: the keys of
// sink, dilated, sliding window, key selection, LSH, without those of an earlier one.
class KeyLister {
 public:
  // active: room for as many keys as the sequence has tokens, with key selection.
  KeyLister(const Pattern& pattern, const Sequences::Range& range, int64_t head, int32_t* active)
      : pattern_(pattern), range_(range), active_(active) {
    if (pattern.has(HAX_PATTERN_DILATED)) {
      const int64_t d = pattern.dilation;
      dilation_ = d;
      inverse_ = ~uint64_t{0} / static_cast<uint64_t>(d) + 1;
      const int64_t below_sink = pattern.sink > d - 1 ? (pattern.sink - (d - 1) + d - 1) / d : 0;
      first_dilated_ = below_sink * d + d - 1;
    }
    if (pattern.key_order) order_ = row_of(pattern.key_order, head);
    if (pattern.eviction) eviction_ = row_of(pattern.eviction, head);
  }

  // Forgets all queries and takes the state in which query i finds the keys before it.
  HAX_INLINE void start(int64_t i) {
    active_count_ = 0;
    next_eviction_ = kNever;
    if (!pattern_.eviction) return;
    for (int64_t j = 0; j < i; ++j) {
      if (eviction_[j] > i) activate(j);
    }
  }

  HAX_INLINE void advance(int64_t i) {
    i_ = i;
    if (!pattern_.eviction) return;
    if (next_eviction_ <= i) drop_evicted();
    if (eviction_[i] > i) activate(i);
  }

  HAX_INLINE void select(int64_t query_head) {
    const bool window = pattern_.has(HAX_PATTERN_SLIDING_WINDOW);
    const int64_t oldest = i_ - pattern_.window + 1;
    window_ = !window ? i_ + 1 : oldest > 0 ? oldest : 0;
    sink_next_ = 0;
    sink_end_ = pattern_.sink < window_ ? pattern_.sink : window_;
    dilated_next_ = first_dilated_;
    window_next_ = window_;
    active_next_ = 0;
    active_end_ = active_count_;
    while (active_end_ > 0 && active_[active_end_ - 1] >= window_) --active_end_;
    order_next_ = order_end_ = 0;
    if (pattern_.key_order) {
      order_next_ = *pattern_.begin.at<int32_t>(range_.row, query_head, range_.begin + i_);
      order_end_ = *pattern_.end.at<int32_t>(range_.row, query_head, range_.begin + i_);
    }
  }

  // Next piece of the selected list, of at most `limit` keys; false at the list's end.
  [[gnu::noinline]] bool next(KeyPiece& piece, int limit = kListKeys) {
    int n = append_range(piece.keys, 0, limit, sink_next_, sink_end_);
    for (; dilated_next_ < window_ && n < limit; dilated_next_ += dilation_) {
      piece.keys[n++] = static_cast<int32_t>(dilated_next_);
    }
    n = append_range(piece.keys, n, limit, window_next_, i_ + 1);
    for (; active_next_ < active_end_ && n < limit; ++active_next_) {
      piece.keys[n++] = active_[active_next_];
    }
    for (; order_next_ < order_end_ && n < limit; ++order_next_) {
      const int64_t j = order_[order_next_];
      piece.keys[n] = static_cast<int32_t>(j);
      n += static_cast<int>(j >= pattern_.sink) & static_cast<int>(j < window_) &
           static_cast<int>(!dilated(j)) & static_cast<int>(i_ >= eviction_[j]);
    }
    piece.count = n;
    if (n == 0) return false;
    piece.pad();
    return true;
  }

 private:
  static constexpr int64_t kNever = INT64_MAX;

  HAX_INLINE IndexRow row_of(const Tensor& tensor, int64_t head) const {
    return {tensor.at<const int32_t>(range_.row, head, range_.begin), tensor.stride[2]};
  }

  // Whether d divides j + 1, by multiplication (Lemire, Kaser, Kurz 2019); without the pattern never.
  HAX_INLINE bool dilated(int64_t j) const {
    return static_cast<uint64_t>(j + 1) * inverse_ <= inverse_ - 1;
  }

  // Keys of sink and dilated are listed anyway, so they aren't kept among the active ones.
  HAX_INLINE void activate(int64_t j) {
    if (j < pattern_.sink || dilated(j)) return;
    active_[active_count_++] = static_cast<int32_t>(j);
    if (eviction_[j] < next_eviction_) next_eviction_ = eviction_[j];
  }

  [[gnu::noinline]] void drop_evicted() {
    int64_t kept = 0;
    next_eviction_ = kNever;
    for (int64_t a = 0; a < active_count_; ++a) {
      const int64_t end = eviction_[active_[a]];
      if (end <= i_) continue;
      active_[kept++] = active_[a];
      if (end < next_eviction_) next_eviction_ = end;
    }
    active_count_ = kept;
  }

  HAX_INLINE static int append_range(int32_t* keys, int n, int limit, int64_t& next, int64_t end) {
    const int64_t left = end - next;
    const int count = static_cast<int>(left < limit - n ? left : limit - n);
    for (int c = 0; c < count; ++c) keys[n + c] = static_cast<int32_t>(next + c);
    if (count <= 0) return n;
    next += count;
    return n + count;
  }

  const Pattern& pattern_;
  const Sequences::Range range_;
  IndexRow order_, eviction_;
  int64_t dilation_ = 1, first_dilated_ = kNever;
  uint64_t inverse_ = 1;

  int32_t* active_;  // ascending
  int64_t active_count_ = 0;
  int64_t next_eviction_ = kNever;  // soonest among the active keys

  int64_t i_ = 0;
  int64_t window_ = 0;  // the oldest key of the sliding window; keys from here on are listed by it
  int64_t sink_next_ = 0, sink_end_ = 0, dilated_next_ = 0, window_next_ = 0;
  int64_t active_next_ = 0, active_end_ = 0, order_next_ = 0, order_end_ = 0;
};

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::sparse_attention
