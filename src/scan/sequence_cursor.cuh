// Where a walk along a row's tokens stands among the sequences.
#pragma once

#include "core/tensor.hpp"

namespace hax {

struct SequenceCursor {
  int64_t s;           // sequence
  int64_t begin, end;  // its tokens on the L axis

  // The sequence of token t of a row.
  __device__ SequenceCursor(const Sequences& sequences, int64_t row, int64_t t)
      : s(sequences.sequence_of(row, t)), begin(0), end(sequences.length) {
    if (!sequences.packed()) return;
    begin = sequences.boundary(s);
    end = sequences.boundary(s + 1);
  }

  // From the end of a sequence to the next one that has tokens; only before the row's end.
  __device__ void advance(const Sequences& sequences) {
    do {
      ++s;
      begin = end;
      end = sequences.boundary(s + 1);
    } while (end == begin);
  }
};

}  // namespace hax
