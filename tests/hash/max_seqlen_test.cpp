// The promise that no sequence is longer, to the operators of hashing and selection.
#include <algorithm>
#include <cmath>

#include "hash/hash_case.hpp"
#include "support/max_seqlen.hpp"

namespace hax_test {
namespace {

Argument boundaries_argument() { return boundaries(kPromiseBoundaries, kInt64); }

// Codes of 8 bits, some more frequent than others.
Argument codes(uint64_t seed) {
  Array values = random_normal({1, 2, kPromiseLength}, seed, 128.0, 30.0);
  for (double& value : values.data) value = std::clamp(std::floor(value), 0.0, 255.0);
  return Argument::input(values, kInt64);
}

TEST(MaxSeqlen, LshHash) {
  for (const int32_t statistics :
       {HAX_LSH_STATISTICS_NONE, HAX_LSH_STATISTICS_SEQUENCE, HAX_LSH_STATISTICS_CAUSAL}) {
    SCOPED_TRACE("statistics=" + std::to_string(statistics));
    const Argument x = Argument::input(random_normal({1, kPromiseLength, 2, 16}, 1), kBf16);
    const Argument R = Argument::input(random_normal({16, 11}, 2));
    const Argument cu_seqlens = boundaries_argument();
    expect_promise_kept(hax_lsh_hash_forward_workspace, hax_lsh_hash_forward,
                        [&](hax_lsh_hash_forward_args& args) {
                          const Argument code = Argument::output({1, 2, kPromiseLength}, kInt64);
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
                          outputs.push_back(Argument::output({1, 2, kPromiseLength}, kInt32));
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
  const Argument score = Argument::input(random_normal({1, 2, kPromiseLength}, 1));
  const Argument cu_seqlens = boundaries_argument();
  for (const int32_t budget : {32, 3000}) {
    SCOPED_TRACE("budget=" + std::to_string(budget));
    expect_promise_kept(
        hax_key_select_forward_workspace, hax_key_select_forward,
        [&](hax_key_select_forward_args& args) {
          const Argument eviction = Argument::output({1, 2, kPromiseLength}, kInt32);
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
  Argument q = Argument::input(random_normal({1, kPromiseLength, 2, 16}, 1), kBf16);
  Argument k = Argument::input(random_normal({1, kPromiseLength, 2, 16}, 2), kBf16);
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
                        const Argument score = Argument::output({1, 2, kPromiseLength});
                        scorer.set(args);
                        args.score = score.arg();
                        return std::vector<Argument>{score};
                      });
}

TEST(MaxSeqlen, KeyScoreBackward) {
  const Scorer scorer;
  const Argument dscore = Argument::input(random_normal({1, 2, kPromiseLength}, 9));
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
