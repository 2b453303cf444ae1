// The promise that no sequence is longer: it changes no result, callers compiled before it keep working, and a broken
// one is an error where lengths can be read.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "hash/hash_case.hpp"

namespace hax_test {
namespace {

const std::vector<int64_t> kCuSeqlens = {0,    1057, 1057,
                                         1100, 3148, 3900};  // long in all, each short
constexpr int64_t kLength = 3900, kLongest = 2048;

// make(args): fills args and answers the outputs. Names of the calls come with the operator's.
template <class Args, class Make>
void expect_promise_kept(hax_status (*query)(const hax_context*, const Args*, size_t*),
                         hax_status (*call)(const hax_context*, const Args*, void*, size_t, void*),
                         Make&& make) {
  const TestContext context;
  const auto results = [&](int64_t max_seqlen, size_t struct_size) {
    Args args = {};
    const std::vector<Argument> outputs = make(args);
    args.max_seqlen = max_seqlen;
    EXPECT_EQ(run(query, call, context, args, struct_size), HAX_SUCCESS) << hax_last_error();
    std::vector<Array> arrays;
    for (const Argument& output : outputs) arrays.push_back(output.array());
    return arrays;
  };
  const std::vector<Array> want = results(0, sizeof(Args));
  const auto expect_same = [&](int64_t max_seqlen, size_t struct_size) {
    const std::vector<Array> got = results(max_seqlen, struct_size);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ(first_mask_mismatch(got[i], want[i]), -1) << "result " << i;
      EXPECT_EQ(difference(got[i], want[i]).worst, -1) << "result " << i;
    }
  };
  for (const int64_t max_seqlen : {kLongest, kLongest + 1, kLength, 10 * kLength}) {
    SCOPED_TRACE("max_seqlen=" + std::to_string(max_seqlen));
    expect_same(max_seqlen, sizeof(Args));
  }
  // The first release's struct ends before the promise: what lies behind it is not read.
  expect_same(-1, offsetof(Args, max_seqlen));

  Args args = {};
  const std::vector<Argument> outputs = make(args);
  const auto expect_refused = [&](int64_t max_seqlen, const char* text) {
    args.max_seqlen = max_seqlen;
    EXPECT_EQ(run(query, call, context, args), HAX_ERROR_INVALID_ARGUMENT);
    EXPECT_NE(std::string(hax_last_error()).find(text), std::string::npos) << hax_last_error();
  };
  expect_refused(-1, "max_seqlen: expected at least 0, got -1");
  if (!tests_use_cuda()) {
    expect_refused(kLongest - 1,
                   "max_seqlen: expected at least 2048, the length of sequence 3, got 2047");
  }
  for (const Argument& output : outputs) EXPECT_TRUE(output.untouched());
  args.cu_seqlens = nullptr;
  expect_refused(kLongest,
                 "max_seqlen: expected 0 or at least L=3900 without cu_seqlens, got 2048");
}

Argument boundaries_argument() { return boundaries(kCuSeqlens, kInt64); }

// Codes of 8 bits, some more frequent than others.
Argument codes(uint64_t seed) {
  Array values = random_normal({1, 2, kLength}, seed, 128.0, 30.0);
  for (double& value : values.data) value = std::clamp(std::floor(value), 0.0, 255.0);
  return Argument::input(values, kInt64);
}

TEST(MaxSeqlen, LshHash) {
  for (const int32_t statistics :
       {HAX_LSH_STATISTICS_NONE, HAX_LSH_STATISTICS_SEQUENCE, HAX_LSH_STATISTICS_CAUSAL}) {
    SCOPED_TRACE("statistics=" + std::to_string(statistics));
    const Argument x = Argument::input(random_normal({1, kLength, 2, 16}, 1), kBf16);
    const Argument R = Argument::input(random_normal({16, 11}, 2));
    const Argument cu_seqlens = boundaries_argument();
    expect_promise_kept(hax_lsh_hash_forward_workspace, hax_lsh_hash_forward,
                        [&](hax_lsh_hash_forward_args& args) {
                          const Argument code = Argument::output({1, 2, kLength}, kInt64);
                          args.x = x.arg();
                          args.R = R.arg();
                          args.cu_seqlens = cu_seqlens.arg();
                          args.code = code.arg();
                          args.statistics = statistics;
                          return std::vector<Argument>{code};
                        });
  }
}

TEST(MaxSeqlen, LshBucket) {
  const Argument code_q = codes(1), code_k = codes(2), cu_seqlens = boundaries_argument();
  expect_promise_kept(hax_lsh_bucket_forward_workspace, hax_lsh_bucket_forward,
                      [&](hax_lsh_bucket_forward_args& args) {
                        std::vector<Argument> outputs;
                        for (int i = 0; i < 3; ++i) {
                          outputs.push_back(Argument::output({1, 2, kLength}, kInt32));
                        }
                        args.code_q = code_q.arg();
                        args.code_k = code_k.arg();
                        args.cu_seqlens = cu_seqlens.arg();
                        args.key_order = outputs[0].arg();
                        args.begin = outputs[1].arg();
                        args.end = outputs[2].arg();
                        args.num_bits = 8;
                        args.budget = 7;
                        return outputs;
                      });
}

TEST(MaxSeqlen, KeySelect) {
  const Argument score = Argument::input(random_normal({1, 2, kLength}, 1));
  const Argument cu_seqlens = boundaries_argument();
  for (const int32_t budget : {32, 3000}) {
    SCOPED_TRACE("budget=" + std::to_string(budget));
    expect_promise_kept(hax_key_select_forward_workspace, hax_key_select_forward,
                        [&](hax_key_select_forward_args& args) {
                          const Argument eviction = Argument::output({1, 2, kLength}, kInt32);
                          args.score = score.arg();
                          args.cu_seqlens = cu_seqlens.arg();
                          args.eviction = eviction.arg();
                          args.budget = budget;
                          return std::vector<Argument>{eviction};
                        });
  }
}

// The MLP of two heads of 16 features.
struct Scorer {
  Argument q = Argument::input(random_normal({1, kLength, 2, 16}, 1), kBf16);
  Argument k = Argument::input(random_normal({1, kLength, 2, 16}, 2), kBf16);
  Argument W1 = Argument::input(random_normal({32, 32}, 3, 0.0, 0.2), kBf16);
  Argument b1 = Argument::input(random_normal({32}, 4));
  Argument W2 = Argument::input(random_normal({32, 32}, 5, 0.0, 0.2), kBf16);
  Argument b2 = Argument::input(random_normal({32}, 6));
  Argument W3 = Argument::input(random_normal({1, 32}, 7), kBf16);
  Argument b3 = Argument::input(random_normal({1}, 8));
  Argument cu_seqlens = boundaries_argument();

  template <class Args>
  void set(Args& args) const {
    args.q = q.arg();
    args.k = k.arg();
    args.W1 = W1.arg();
    args.b1 = b1.arg();
    args.W2 = W2.arg();
    args.b2 = b2.arg();
    args.W3 = W3.arg();
    args.b3 = b3.arg();
    args.cu_seqlens = cu_seqlens.arg();
    args.k_scale = 0.25f;
  }
};

TEST(MaxSeqlen, KeyScore) {
  const Scorer scorer;
  expect_promise_kept(hax_key_score_forward_workspace, hax_key_score_forward,
                      [&](hax_key_score_forward_args& args) {
                        const Argument score = Argument::output({1, 2, kLength});
                        scorer.set(args);
                        args.score = score.arg();
                        return std::vector<Argument>{score};
                      });
}

TEST(MaxSeqlen, KeyScoreBackward) {
  const Scorer scorer;
  const Argument dscore = Argument::input(random_normal({1, 2, kLength}, 9));
  expect_promise_kept(hax_key_score_backward_workspace, hax_key_score_backward,
                      [&](hax_key_score_backward_args& args) {
                        const std::vector<Argument> outputs = {
                            Argument::output({32, 32}), Argument::output({32}),
                            Argument::output({32, 32}), Argument::output({32}),
                            Argument::output({1, 32}),  Argument::output({1})};
                        scorer.set(args);
                        args.dscore = dscore.arg();
                        args.dW1 = outputs[0].arg();
                        args.db1 = outputs[1].arg();
                        args.dW2 = outputs[2].arg();
                        args.db2 = outputs[3].arg();
                        args.dW3 = outputs[4].arg();
                        args.db3 = outputs[5].arg();
                        args.deterministic = 1;
                        return outputs;
                      });
}

}  // namespace
}  // namespace hax_test
