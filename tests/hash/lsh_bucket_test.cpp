#include <algorithm>
#include <map>
#include <numeric>
#include <random>

#include "hash/hash_case.hpp"

namespace hax_test {
namespace {

using Codes = std::vector<int64_t>;  // flat (B, heads, L)

struct BucketCase {
  int64_t batch = 2, length = 100, query_heads = 2, key_heads = 2;
  int num_bits = 4;
  int64_t budget = 5;
  int64_t distinct = 16;  // codes drawn from so many values, spread over all bits
  std::vector<int64_t> cu_seqlens = {};
  hax_data_type index_type = kInt32;
  Layout layout = Layout::compact;
  uint64_t seed = 1;

  Codes codes(int64_t heads, uint64_t offset) const {
    std::mt19937_64 engine(seed + offset);
    Codes result(static_cast<size_t>(batch * heads * length));
    for (int64_t& code : result) {
      const uint64_t value = engine() % static_cast<uint64_t>(distinct);
      // An odd factor spreads neighbouring values over high and low bits alike.
      code = static_cast<int64_t>(value * 0x9e3779b97f4a7c15u & ((uint64_t{1} << num_bits) - 1));
    }
    return result;
  }
  Codes queries() const { return codes(query_heads, 0); }
  Codes keys() const { return codes(key_heads, 1); }
};

std::string describe(const BucketCase& c) {
  return "B=" + std::to_string(c.batch) + " L=" + std::to_string(c.length) +
         " Hq=" + std::to_string(c.query_heads) + " Hk=" + std::to_string(c.key_heads) +
         " bits=" + std::to_string(c.num_bits) + " budget=" + std::to_string(c.budget) +
         " distinct=" + std::to_string(c.distinct) + " " + name_of(c.layout) +
         (c.cu_seqlens.empty() ? "" : " packed");
}

// 64-bit codes, which an Array of doubles can't hold.
Argument code_argument(const Codes& codes, const std::vector<int64_t>& shape, Layout layout) {
  Argument argument = Argument::input(Array(shape), kInt64, layout);
  const hax_tensor& tensor = *argument.arg();
  std::vector<int64_t> strides = {shape[1] * shape[2], shape[2], 1};
  if (tensor.strides) strides.assign(tensor.strides, tensor.strides + 3);
  auto* data = reinterpret_cast<int64_t*>(static_cast<char*>(tensor.data) + tensor.byte_offset);
  size_t i = 0;
  for (int64_t b = 0; b < shape[0]; ++b) {
    for (int64_t h = 0; h < shape[1]; ++h) {
      for (int64_t t = 0; t < shape[2]; ++t) {
        data[b * strides[0] + h * strides[1] + t * strides[2]] = codes[i++];
      }
    }
  }
  return argument;
}

struct Buckets {
  Argument key_order, begin, end;
};

Buckets bucket(const BucketCase& c, const Codes& queries, const Codes& keys,
               const hax_context* context, hax_status expected = HAX_SUCCESS) {
  const std::vector<int64_t> query_shape = {c.batch, c.query_heads, c.length};
  const std::vector<int64_t> key_shape = {c.batch, c.key_heads, c.length};
  const Argument code_q = code_argument(queries, query_shape, c.layout);
  const Argument code_k = code_argument(keys, key_shape, c.layout);
  const Argument cu_seqlens = boundaries(c.cu_seqlens, c.index_type);
  Buckets out{Argument::output(key_shape, kInt32, c.layout),
              Argument::output(query_shape, kInt32, c.layout),
              Argument::output(query_shape, kInt32, c.layout)};
  hax_lsh_bucket_forward_args args = {};
  args.code_q = code_q.arg();
  args.code_k = code_k.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.key_order = out.key_order.arg();
  args.begin = out.begin.arg();
  args.end = out.end.arg();
  args.num_bits = c.num_bits;
  args.budget = static_cast<int32_t>(c.budget);
  EXPECT_EQ(run(hax_lsh_bucket_forward_workspace, hax_lsh_bucket_forward, context, args), expected)
      << hax_last_error();
  EXPECT_TRUE(out.key_order.sentinels_intact());
  EXPECT_TRUE(out.begin.sentinels_intact());
  EXPECT_TRUE(out.end.sentinels_intact());
  return out;
}

std::vector<uint64_t> as_unsigned(const Codes& codes) { return {codes.begin(), codes.end()}; }

// key_order is the order by (code, position), and each query's range holds its candidates by brute
// force (checked for every `stride`th query, that being quadratic).
void expect_buckets_match(const BucketCase& c, const hax_context* context) {
  SCOPED_TRACE(describe(c));
  const Codes queries = c.queries(), keys = c.keys();
  const Buckets out = bucket(c, queries, keys, context);
  const Codes key_order = out.key_order.integers();
  const Codes begin = out.begin.integers(), end = out.end.integers();
  for (const Stretch& s : stretches(c.batch, c.length, c.cu_seqlens)) {
    for (int64_t hq = 0; hq < c.query_heads; ++hq) {
      const int64_t hk = hq / (c.query_heads / c.key_heads);
      const Codes q = values_of(queries, c.query_heads, c.length, s, hq);
      const Codes k = values_of(keys, c.key_heads, c.length, s, hk);
      const Codes order = values_of(key_order, c.key_heads, c.length, s, hk);
      const Codes first = values_of(begin, c.query_heads, c.length, s, hq);
      const Codes last = values_of(end, c.query_heads, c.length, s, hq);
      Codes sorted(static_cast<size_t>(s.length));
      std::iota(sorted.begin(), sorted.end(), 0);
      std::stable_sort(sorted.begin(), sorted.end(), [&](int64_t a, int64_t b) {
        return k[static_cast<size_t>(a)] < k[static_cast<size_t>(b)];
      });
      ASSERT_EQ(order, sorted);
      const auto candidates = oracle_lsh_candidates(as_unsigned(q), as_unsigned(k), c.budget);
      for (size_t i = 0; i < q.size(); ++i) {
        ASSERT_TRUE(0 <= first[i] && first[i] <= last[i] && last[i] <= s.length &&
                    last[i] - first[i] <= c.budget);
        ASSERT_EQ(Codes(order.begin() + first[i], order.begin() + last[i]), candidates[i])
            << "query " << i;
      }
    }
  }
}

TEST(LshBucket, HostileShapes) {
  const TestContext context;
  for (const int64_t length : {0, 1, 2, 3, 63, 64, 65, 66, 500}) {
    for (const int64_t budget : {1, 2, 7, 1 << 30}) {
      expect_buckets_match({.length = length, .budget = budget}, context);
    }
  }
  for (const int num_bits : {1, 2, 7, 8, 9, 16, 17, 24, 25, 31, 32, 33, 62, 63}) {
    for (const int64_t distinct : {1, 2, 40, 5000}) {
      expect_buckets_match({.length = 400, .num_bits = num_bits, .distinct = distinct}, context);
    }
  }
  expect_buckets_match({.batch = 0}, context);
  expect_buckets_match({.query_heads = 0, .key_heads = 0}, context);
  expect_buckets_match({.query_heads = 0}, context);
}

TEST(LshBucket, GroupedQueryHeads) {
  const TestContext context;
  for (const int64_t key_heads : {1, 2, 3, 6}) {
    expect_buckets_match({.query_heads = 6, .key_heads = key_heads}, context);
  }
}

TEST(LshBucket, EveryLayout) {
  const TestContext context(2);
  for (const Layout layout : kLayouts) {
    expect_buckets_match({.query_heads = 4, .layout = layout}, context);
  }
}

// Several sorting tiles, so that all threads share one sequence.
TEST(LshBucket, LongSequencesOnAnyNumberOfThreads) {
  for (const int64_t distinct : {1, 3, 1000000}) {
    const BucketCase c{.batch = 1,
                       .length = 20000,
                       .query_heads = 2,
                       .key_heads = 1,
                       .num_bits = 20,
                       .distinct = distinct};
    const TestContext one(1);
    const Buckets want = bucket(c, c.queries(), c.keys(), one);
    for (const int threads : {2, 5}) {
      const TestContext several(threads);
      const Buckets got = bucket(c, c.queries(), c.keys(), several);
      EXPECT_EQ(got.key_order.integers(), want.key_order.integers());
      EXPECT_EQ(got.begin.integers(), want.begin.integers());
      EXPECT_EQ(got.end.integers(), want.end.integers());
    }
    if (distinct == 1) continue;  // brute force over one huge bucket takes too long
    expect_buckets_match(c, one);
  }
  for (const int64_t length : {4095, 4096, 4097, 8191, 8192, 8193, 16385}) {
    expect_buckets_match({.batch = 1,
                          .length = length,
                          .query_heads = 1,
                          .key_heads = 1,
                          .num_bits = 63,
                          .distinct = 300},
                         TestContext(2));
  }
}

// Wrong codes of long rows, too, stay harmless on CUDA.
TEST(LshBucket, CodesOutsideTheirRangeInLongRows) {
  if (!tests_use_cuda()) return;
  const TestContext context;
  const BucketCase c{.batch = 1, .length = 9000, .query_heads = 1, .key_heads = 1, .num_bits = 9};
  Codes queries = c.queries(), keys = c.keys();
  for (size_t i = 0; i < keys.size(); i += 7) queries[i] = keys[i] = i % 2 ? -1 : INT64_MAX;
  bucket(c, queries, keys, context);
}

// Codes of every width in rows of several tiles, few or many of them different.
TEST(LshBucket, EveryWidthInLongRows) {
  const TestContext context;
  for (const int num_bits : {1, 7, 8, 9, 16, 17, 32, 33, 63}) {
    for (const int64_t distinct : {50, 1000000}) {
      expect_buckets_match({.batch = 1,
                            .length = 8200,
                            .query_heads = 2,
                            .key_heads = 1,
                            .num_bits = num_bits,
                            .distinct = distinct},
                           context);
    }
  }
  for (const Layout layout : kLayouts) {
    expect_buckets_match({.length = 5000, .distinct = 300, .layout = layout}, context);
  }
}

// More tiles than a block of the CUDA kernels adds up by itself; against the definition, as brute force takes too long.
TEST(LshBucket, VeryLongRows) {
  const TestContext context;
  for (const int num_bits : {8, 20}) {
    const BucketCase c{.batch = 1,
                       .length = 140001,
                       .query_heads = 1,
                       .key_heads = 1,
                       .num_bits = num_bits,
                       .budget = 7,
                       .distinct = int64_t{1} << num_bits};
    const Codes queries = c.queries(), keys = c.keys();
    const Buckets out = bucket(c, queries, keys, context);
    const Codes order = out.key_order.integers(), begin = out.begin.integers(),
                end = out.end.integers();
    std::map<int64_t, Codes> buckets;
    for (int64_t t = 0; t < c.length; ++t) {
      const auto at = static_cast<size_t>(t);
      Codes& own = buckets[queries[at]];
      if (keys[at] == queries[at]) own.push_back(t);
      if (keys[at] != queries[at]) buckets[keys[at]].push_back(t);
      const auto count = std::min<int64_t>(static_cast<int64_t>(own.size()), c.budget);
      ASSERT_EQ(Codes(order.begin() + begin[at], order.begin() + end[at]),
                Codes(own.end() - count, own.end()))
          << "query " << t << ", bits " << num_bits;
    }
  }
}

TEST(LshBucket, Packed) {
  const TestContext context;
  for (const hax_data_type index_type : {kInt32, kInt64}) {
    expect_buckets_match(
        {.batch = 1, .length = 300, .cu_seqlens = cut_up(300), .index_type = index_type}, context);
  }
  expect_buckets_match({.batch = 1,
                        .length = 18000,
                        .num_bits = 12,
                        .distinct = 2000,
                        .cu_seqlens = {0, 10, 8202, 16395, 16395, 18000}},
                       TestContext(3));
  expect_buckets_match({.batch = 1, .length = 0, .cu_seqlens = {0}}, context);
  expect_buckets_match({.batch = 1, .length = 0, .cu_seqlens = {0, 0}}, context);
}

TEST(LshBucket, ManySequences) {
  const std::vector<int64_t> cu_seqlens = many_sequences();
  expect_buckets_match({.batch = 1,
                        .length = cu_seqlens.back(),
                        .query_heads = 1,
                        .key_heads = 1,
                        .num_bits = 1,
                        .budget = 2,
                        .cu_seqlens = cu_seqlens},
                       TestContext(2));
}

TEST(LshBucket, RejectsCodesOutsideTheirRange) {
  const TestContext context;
  const BucketCase c{.batch = 1, .length = 4, .query_heads = 1, .key_heads = 1, .num_bits = 3};
  const Codes fine = {0, 7, 3, 1};
  for (const int64_t bad : {int64_t{8}, int64_t{-1}, INT64_MIN, INT64_MAX}) {
    const Codes broken = {0, 7, bad, 1};
    for (const bool in_queries : {true, false}) {
      // On CUDA the content of codes is the caller's duty, but nothing beside the tensors is touched.
      const Buckets out = bucket(c, in_queries ? broken : fine, in_queries ? fine : broken, context,
                                 tests_use_cuda() ? HAX_SUCCESS : HAX_ERROR_INVALID_ARGUMENT);
      if (tests_use_cuda()) continue;
      EXPECT_EQ(std::string(hax_last_error()),
                std::string("hax_lsh_bucket_forward: ") + (in_queries ? "code_q" : "code_k") +
                    "[0, 0, 2]: expected 0 to 2^num_bits - 1 = 7, got " + std::to_string(bad));
      EXPECT_TRUE(out.key_order.untouched() && out.begin.untouched() && out.end.untouched());
    }
  }
}

TEST(LshBucket, RejectsNumbersOutsideTheirRange) {
  const TestContext context;
  BucketCase c{.batch = 1, .length = 2};
  const Codes zeros(4, 0);
  for (const int num_bits : {0, -1, 64}) {
    c.num_bits = num_bits;
    bucket(c, zeros, zeros, context, HAX_ERROR_INVALID_ARGUMENT);
  }
  c.num_bits = 4;
  for (const int64_t budget : {0, -5}) {
    c.budget = budget;
    bucket(c, zeros, zeros, context, HAX_ERROR_INVALID_ARGUMENT);
  }
  c.budget = 1;
  c.key_heads = 3;
  bucket(c, zeros, Codes(6, 0), context, HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(hax_last_error()),
            "hax_lsh_bucket_forward: Hk: expected a divisor of Hq=2, got 3");
}

}  // namespace
}  // namespace hax_test
