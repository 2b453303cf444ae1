// Contents of the index tensors. Tasks run in parallel and only say whether they found a fault; the first
// faulty task is then run once more to report it, so that the message doesn't depend on threads.
#include <algorithm>
#include <atomic>

#include "attention/sparse_attention/sparse_attention.hpp"
#include "core/parallel.hpp"

namespace hax::sparse_attention {
namespace {

// Positions [0, length) of one head's stretch of an index tensor.
struct IndexRow {
  const int32_t* data;
  int64_t stride;
  int64_t operator[](int64_t i) const { return data[i * stride]; }
};

IndexRow row_of(const Tensor& tensor, int64_t b, int64_t head, int64_t first_token) {
  return {tensor.at<const int32_t>(b, head, first_token), tensor.stride[2]};
}

struct Fault {
  const char* tensor = nullptr;  // none: all is well
  int64_t head = 0, token = 0;   // token on the L axis
  int64_t low = 0, high = 0;     // what was expected, both included
  int64_t value = 0;
  bool repeated = false;  // in range, but there already
};

Fault check_key_order(const Pattern& p, const Sequences::Range& range, int64_t head,
                      uint32_t* seen) {
  const IndexRow order = row_of(p.key_order, range.row, head, range.begin);
  std::fill_n(seen, (range.length + 31) / 32, 0u);
  for (int64_t i = 0; i < range.length; ++i) {
    const int64_t j = order[i];
    const bool inside = j >= 0 && j < range.length;
    const uint32_t bit = inside ? 1u << (j % 32) : 0u;
    const bool repeated = inside && (seen[j / 32] & bit) != 0;
    if (!inside || repeated) {
      return {"key_order", head, range.begin + i, 0, range.length - 1, j, repeated};
    }
    seen[j / 32] |= bit;
  }
  return {};
}

Fault check_ranges(const Pattern& p, const Sequences::Range& range, int64_t head) {
  const IndexRow begin = row_of(p.begin, range.row, head, range.begin);
  const IndexRow end = row_of(p.end, range.row, head, range.begin);
  for (int64_t i = 0; i < range.length; ++i) {
    if (end[i] < 0 || end[i] > range.length) {
      return {"end", head, range.begin + i, 0, range.length, end[i]};
    }
    if (begin[i] < 0 || begin[i] > end[i]) {
      return {"begin", head, range.begin + i, 0, end[i], begin[i]};
    }
  }
  return {};
}

Fault check_eviction(const Pattern& p, const Sequences::Range& range, int64_t head) {
  const IndexRow eviction = row_of(p.eviction, range.row, head, range.begin);
  for (int64_t j = 0; j < range.length; ++j) {
    if (eviction[j] < j || eviction[j] > range.length) {
      return {"eviction", head, range.begin + j, j, range.length, eviction[j]};
    }
  }
  return {};
}

// One key head of one sequence and the query heads that share it.
Fault find_fault(const Problem& p, const Sequences::Range& range, int64_t head, uint32_t* seen) {
  Fault fault;
  if (range.length == 0) return fault;
  if (p.pattern.key_order) {
    fault = check_key_order(p.pattern, range, head, seen);
    for (int64_t h = head * p.group(); h < (head + 1) * p.group() && !fault.tensor; ++h) {
      fault = check_ranges(p.pattern, range, h);
    }
  }
  if (p.pattern.eviction && !fault.tensor) fault = check_eviction(p.pattern, range, head);
  return fault;
}

}  // namespace

void check_indices(const char* function, const Problem& p, const Scratch& scratch) {
  if (!p.pattern.key_order && !p.pattern.eviction) return;
  const int64_t tasks = p.sequences.count() * p.k_heads;
  std::atomic<int64_t> first{tasks};
  const auto examine = [&](int64_t task, int thread) {
    return find_fault(p, p.sequences.range(task / p.k_heads), task % p.k_heads,
                      scratch.seen.of(thread));
  };
  parallel_for(scratch.threads, tasks, [&](int64_t task, int thread) {
    if (task > first.load(std::memory_order_relaxed) || !examine(task, thread).tensor) return;
    int64_t known = first.load();
    while (task < known && !first.compare_exchange_weak(known, task)) {
    }
  });
  if (first == tasks) return;
  const Fault fault = examine(first, 0);
  const int64_t row = p.sequences.range(first / p.k_heads).row;
  fail(HAX_ERROR_INVALID_ARGUMENT, function, ": ", fault.tensor, "[", row, ", ", fault.head, ", ",
       fault.token, "]: expected ", fault.low, " to ", fault.high,
       fault.repeated ? " and each position of the sequence once, got a second " : ", got ",
       fault.value);
}

}  // namespace hax::sparse_attention
