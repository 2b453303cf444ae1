// Validated tensor views, as kernels see them: a hax_tensor whose shape, type and device have been
// checked (check.hpp), with strides filled in.
#pragma once

#include "core/element.hpp"
#include "hax/tensor.h"

namespace hax {

inline constexpr int kMaxAxes = 5;

struct Tensor {
  void* data = nullptr;
  Type type = Type::none;  // none: the optional argument was not given
  int32_t ndim = 0;
  int64_t shape[kMaxAxes] = {};
  int64_t stride[kMaxAxes] = {};  // in elements

  HAX_EVERYWHERE explicit operator bool() const { return type != Type::none; }

  HAX_EVERYWHERE int64_t numel() const {
    int64_t n = 1;
    for (int32_t axis = 0; axis < ndim; ++axis) n *= shape[axis];
    return n;
  }

  // Whether elements along the last axis are adjacent.
  HAX_EVERYWHERE bool last_axis_contiguous() const {
    return ndim == 0 || shape[ndim - 1] <= 1 || stride[ndim - 1] == 1;
  }

  // Offset in elements of the sub-tensor or element that the leading indices name.
  template <class... Index>
  HAX_EVERYWHERE int64_t offset(Index... index) const {
    int64_t sum = 0;
    int axis = 0;
    ((sum += static_cast<int64_t>(index) * stride[axis++]), ...);
    return sum;
  }

  // Address of the sub-tensor or element that the leading indices name; T must match `type`.
  template <class T, class... Index>
  HAX_EVERYWHERE T* at(Index... index) const {
    return static_cast<T*>(data) + offset(index...);
  }
};

// How tokens fall into sequences: B rows of L tokens, or one row cut up by cu_seqlens.
struct Sequences {
  int64_t batch = 0;    // B
  int64_t length = 0;   // L
  int64_t longest = 0;  // no sequence is longer
  Tensor cu_seqlens;    // none: every row is one sequence

  struct Range {
    int64_t row;    // index on the batch axis
    int64_t begin;  // first token on the L axis
    int64_t length;
  };

  HAX_EVERYWHERE bool packed() const { return static_cast<bool>(cu_seqlens); }

  HAX_EVERYWHERE int64_t count() const { return packed() ? cu_seqlens.shape[0] - 1 : batch; }

  HAX_EVERYWHERE int64_t boundary(int64_t s) const {
    return cu_seqlens.type == Type::int32 ? *cu_seqlens.at<int32_t>(s) : *cu_seqlens.at<int64_t>(s);
  }

  // Sequence s; reads cu_seqlens, so only where its memory can be read.
  HAX_EVERYWHERE Range range(int64_t s) const {
    if (!packed()) return {s, 0, length};
    const int64_t begin = boundary(s);
    return {0, begin, boundary(s + 1) - begin};
  }

  // Sequence that token t of a row belongs to, for a row that is not empty.
  HAX_EVERYWHERE int64_t sequence_of(int64_t row, int64_t t) const {
    if (!packed()) return row;
    int64_t low = 0, high = count() - 1;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (boundary(middle + 1) > t) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // Cuts tokens [begin, end) of a row at sequence boundaries: f(sequence, its range, first, last) with
  // first and last counted from the sequence's start.
  template <class F>
  HAX_EVERYWHERE void for_each_piece(int64_t row, int64_t begin, int64_t end, F&& f) const {
    if (begin >= end) return;
    for (int64_t s = sequence_of(row, begin); begin < end; ++s) {
      const Range r = range(s);
      const int64_t stop = end < r.begin + r.length ? end : r.begin + r.length;
      if (begin < stop) f(s, r, begin - r.begin, stop - r.begin);
      begin = stop;
    }
  }
};

}  // namespace hax
