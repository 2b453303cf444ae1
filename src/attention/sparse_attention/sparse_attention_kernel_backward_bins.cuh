// Queries by what they look up in key_order.
#pragma once

#include "attention/sparse_attention/sparse_attention.hpp"

namespace hax::sparse_attention {

// One query head of one sequence.
struct Bins {
  const int32_t* row;              // of bin_begin
  int64_t first, count;            // the sequence's first bin, bins of the row
  int64_t sequence_begin, length;  // first token, tokens of the row

  __device__ Bins(const Problem& p, const CudaIndices& indices, int64_t query_row, int64_t s,
                  const Sequences::Range& range)
      : count(Tiling{kBinEnds}.places(p.sequences) + 1),
        sequence_begin(range.begin),
        length(p.sequences.length) {
    row = indices.bin_begin + query_row * count;
    first = Tiling{kBinEnds}.first_place(p.sequences, s, range.begin);
  }

  // Where a bin's queries begin in the sequence's order.
  __device__ int32_t begin(int64_t bin) const {
    const int64_t at = first + bin < count ? row[first + bin] : length;
    return static_cast<int32_t>(at - sequence_begin);
  }
};

}  // namespace hax::sparse_attention
