#include <algorithm>

#include "core/error.hpp"
#include "core/parallel.hpp"
#include "hash/lsh_bucket/lsh_bucket.hpp"

namespace hax::lsh_bucket {
namespace {

// One sequence's keys of one head, with every query head that looks into them.
struct Job {
  const Params& p;
  Sequences::Range range;
  int64_t key_head;
  Item* buffers;  // kBuffers, each of `capacity` items
  int64_t capacity;
  uint32_t* histograms;  // kDigitValues per tile
  int num_threads;

  template <class F>
  void for_each_tile(F&& f) const {
    parallel_for(num_threads, ceil_div(range.length, kTileItems), [&](int64_t tile, int) {
      const int64_t first = tile * kTileItems;
      f(first, std::min(range.length, first + kTileItems));
    });
  }

  void load(Item* items, const Tensor& code, int64_t head) const {
    for_each_tile([&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        items[t] = {static_cast<uint64_t>(*code.at<int64_t>(range.row, head, range.begin + t)), t};
      }
    });
  }

  Item* sort(Item* items, Item* spare) const {
    return sort_by_code(items, spare, range.length, p.num_bits, histograms, num_threads);
  }

  void store_key_order(const Item* keys) const {
    for_each_tile([&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        *p.key_order.at<int32_t>(range.row, key_head, range.begin + i) =
            static_cast<int32_t>(keys[i].position);
      }
    });
  }

  void store_ranges(const Item* keys, const Item* queries, int64_t head) const;
  void run() const;
};

// Merges sorted queries into sorted keys: both run through their buckets together, and a bucket's
// queries find ever more of its keys in their past.
void Job::store_ranges(const Item* keys, const Item* queries, int64_t head) const {
  const Item* keys_end = keys + range.length;
  for_each_tile([&](int64_t first, int64_t last) {
    const Item* bucket = std::partition_point(
        keys, keys_end, [&](const Item& key) { return key.code < queries[first].code; });
    const Item* end = std::partition_point(bucket, keys_end, [&](const Item& key) {
      return key.code == queries[first].code && key.position <= queries[first].position;
    });
    for (int64_t i = first; i < last; ++i) {
      const Item& query = queries[i];
      if (i > first && query.code != queries[i - 1].code) {
        while (end < keys_end && end->code < query.code) ++end;
        bucket = end;
      }
      while (end < keys_end && end->code == query.code && end->position <= query.position) ++end;
      const int64_t seen = std::min<int64_t>(end - bucket, p.budget);
      const int64_t t = range.begin + query.position;
      *p.begin.at<int32_t>(range.row, head, t) = static_cast<int32_t>(end - keys - seen);
      *p.end.at<int32_t>(range.row, head, t) = static_cast<int32_t>(end - keys);
    }
  });
}

void Job::run() const {
  Item* keys = buffers;
  Item* spare = buffers + capacity;
  Item* spare2 = buffers + 2 * capacity;
  load(keys, p.code_k, key_head);
  if (const Item* sorted = sort(keys, spare); sorted != keys) std::swap(keys, spare);
  store_key_order(keys);
  const int64_t group = p.query_heads / p.key_heads;
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    load(spare, p.code_q, head);
    store_ranges(keys, sort(spare, spare2), head);
  }
}

void check_codes(const Tensor& code, const char* name, int num_bits) {
  const uint64_t limit = uint64_t{1} << num_bits;
  for (int64_t b = 0; b < code.shape[0]; ++b) {
    for (int64_t h = 0; h < code.shape[1]; ++h) {
      for (int64_t t = 0; t < code.shape[2]; ++t) {
        const int64_t value = *code.at<int64_t>(b, h, t);
        if (static_cast<uint64_t>(value) < limit) continue;
        fail(HAX_ERROR_INVALID_ARGUMENT, Forward::name, ": ", name, "[", b, ", ", h, ", ", t,
             "]: expected 0 to 2^num_bits - 1 = ", limit - 1, ", got ", value);
      }
    }
  }
}

}  // namespace

void host_forward(const Params& p, const Plan& plan, int num_threads) {
  check_codes(p.code_q, "code_q", p.num_bits);
  check_codes(p.code_k, "code_k", p.num_bits);
  const int64_t sequences = p.sequences.count();
  parallel_for(num_threads, sequences * p.key_heads, [&](int64_t task, int thread) {
    const Sequences::Range range = p.sequences.range(task / p.key_heads);
    if (range.length == 0 || range.length > kTileItems) return;
    uint32_t histogram[kDigitValues];
    Item* buffers = plan.thread_items + thread * kBuffers * plan.short_items;
    Job{p, range, task % p.key_heads, buffers, plan.short_items, histogram, 1}.run();
  });
  if (plan.long_items == 0) return;
  for (int64_t s = 0; s < sequences; ++s) {
    const Sequences::Range range = p.sequences.range(s);
    if (range.length <= kTileItems) continue;
    for (int64_t head = 0; head < p.key_heads; ++head) {
      Job{p, range, head, plan.long_scratch, plan.long_items, plan.histograms, num_threads}.run();
    }
  }
}

}  // namespace hax::lsh_bucket
