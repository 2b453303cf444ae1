// Tiles of tokens that start with their sequence, so that a sequence is cut, and its sums are rounded,
// the same way wherever it lies in a packed row. Tiles are numbered by slots whose count follows from
// shapes alone; in packed rows some slots stay empty.
#pragma once

#include "core/integer.hpp"
#include "core/tensor.hpp"

namespace hax {

struct SequenceTiles {
  const Sequences& sequences;
  int64_t tokens;  // of a full tile

  struct Tile {
    int64_t sequence;
    Sequences::Range range;
    int64_t begin, end;  // tokens, counted from the sequence's start
  };

  HAX_EVERYWHERE int64_t slots() const {
    return sequences.packed() ? sequences.length / tokens + sequences.count()
                              : sequences.batch * ceil_div(sequences.length, tokens);
  }

  HAX_EVERYWHERE int64_t first_slot(int64_t s) const {
    return sequences.packed() ? sequences.boundary(s) / tokens + s
                              : s * ceil_div(sequences.length, tokens);
  }

  HAX_EVERYWHERE Tile at(int64_t slot) const {
    int64_t s;
    if (sequences.packed()) {
      int64_t high = sequences.count() - 1;
      for (s = 0; s < high;) {
        const int64_t middle = s + (high - s + 1) / 2;
        if (first_slot(middle) <= slot) {
          s = middle;
        } else {
          high = middle - 1;
        }
      }
    } else {
      s = slot / ceil_div(sequences.length, tokens);
    }
    const Sequences::Range range = sequences.range(s);
    const int64_t begin = (slot - first_slot(s)) * tokens;
    if (begin >= range.length) return {s, range, range.length, range.length};
    const int64_t left = range.length - begin;
    return {s, range, begin, begin + (left < tokens ? left : tokens)};
  }
};

}  // namespace hax
