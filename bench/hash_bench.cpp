// Hashing and key selection on the CPU, one head of one sequence. Items are tokens, but multiply-adds
// for key_score and the ranking loss.
#include "operator_bench.hpp"

namespace {

using hax_bench::measure;
using hax_bench::Values;

int threads_of(const benchmark::State& state, int argument) {
  return static_cast<int>(state.range(argument));
}

// Arguments: L, N, num_bits, statistics, threads.
void lsh_hash(benchmark::State& state) {
  const int64_t L = state.range(0), N = state.range(1), bits = state.range(2);
  Values x({1, L, 1, N}, -1, 1), R({N, bits}, -1, 1), code({1, 1, L}, HAX_INT64);
  hax_lsh_hash_forward_args args = {};
  args.x = x;
  args.R = R;
  args.code = code;
  args.statistics = static_cast<int32_t>(state.range(3));
  measure(state, threads_of(state, 4), L, args, hax_lsh_hash_forward_workspace,
          hax_lsh_hash_forward);
}
BENCHMARK(lsh_hash)
    ->ArgNames({"L", "N", "bits", "statistics", "threads"})
    ->Args({65536, 64, 16, HAX_LSH_STATISTICS_NONE, 1})
    ->Args({65536, 64, 16, HAX_LSH_STATISTICS_SEQUENCE, 1})
    ->Args({65536, 64, 16, HAX_LSH_STATISTICS_CAUSAL, 1})
    ->Args({65536, 64, 16, HAX_LSH_STATISTICS_CAUSAL, 2})
    ->Args({1 << 20, 64, 16, HAX_LSH_STATISTICS_CAUSAL, 1})
    ->UseRealTime();

// Arguments: L, num_bits, threads. Codes are uniform.
void lsh_bucket(benchmark::State& state) {
  const int64_t L = state.range(0);
  Values code_q({1, 1, L}, HAX_INT64), code_k({1, 1, L}, HAX_INT64);
  Values key_order({1, 1, L}, HAX_INT32), begin({1, 1, L}, HAX_INT32), end({1, 1, L}, HAX_INT32);
  std::mt19937_64 engine(1);
  const uint64_t mask = (uint64_t{1} << state.range(1)) - 1;
  for (int64_t t = 0; t < L; ++t) {
    code_q.data<int64_t>()[t] = static_cast<int64_t>(engine() & mask);
    code_k.data<int64_t>()[t] = static_cast<int64_t>(engine() & mask);
  }
  hax_lsh_bucket_forward_args args = {};
  args.code_q = code_q;
  args.code_k = code_k;
  args.key_order = key_order;
  args.begin = begin;
  args.end = end;
  args.num_bits = static_cast<int32_t>(state.range(1));
  args.budget = 64;
  measure(state, threads_of(state, 2), L, args, hax_lsh_bucket_forward_workspace,
          hax_lsh_bucket_forward);
}
BENCHMARK(lsh_bucket)
    ->ArgNames({"L", "bits", "threads"})
    ->Args({2048, 8, 1})
    ->Args({65536, 16, 1})
    ->Args({1 << 20, 16, 1})
    ->Args({1 << 20, 16, 2})
    ->Args({1 << 20, 63, 1})
    ->UseRealTime();

struct KeyScore {
  explicit KeyScore(const benchmark::State& state) : L(state.range(0)), N(state.range(1)) {}

  template <class Args>
  void bind(Args& args) const {
    args.q = q;
    args.k = k;
    args.W1 = W1;
    args.b1 = b;
    args.W2 = W2;
    args.b2 = b;
    args.W3 = W3;
    args.b3 = b3;
    args.k_scale = 0.125f;
  }

  int64_t L, N;
  Values q{{1, L, 1, N}, -1, 1}, k{{1, L, 1, N}, -1, 1};
  Values W1{{2 * N, 2 * N}, -0.1f, 0.1f}, W2{{2 * N, 2 * N}, -0.1f, 0.1f}, W3{{1, 2 * N}, -1, 1};
  Values b{{2 * N}, -1, 1}, b3{{1}, -1, 1};
};

// Arguments: L, N, threads.
void key_score_forward(benchmark::State& state) {
  const KeyScore c(state);
  const Values score({1, 1, c.L});
  hax_key_score_forward_args args = {};
  c.bind(args);
  args.score = score;
  measure(state, threads_of(state, 2), c.L * 2 * (2 * c.N) * (2 * c.N), args,
          hax_key_score_forward_workspace, hax_key_score_forward);
}
BENCHMARK(key_score_forward)
    ->ArgNames({"L", "N", "threads"})
    ->Args({65536, 16, 1})
    ->Args({65536, 64, 1})
    ->Args({65536, 64, 2})
    ->Args({16384, 256, 1})
    ->UseRealTime();

// Arguments: L, N, one token in so many has a gradient, threads.
void key_score_backward(benchmark::State& state) {
  const KeyScore c(state);
  Values dscore({1, 1, c.L});
  for (int64_t t = 0; t < c.L; t += state.range(2)) dscore.data<float>()[t] = 1.0f;
  const Values dW1({2 * c.N, 2 * c.N}), dW2({2 * c.N, 2 * c.N}), dW3({1, 2 * c.N});
  const Values db1({2 * c.N}), db2({2 * c.N}), db3({1});
  hax_key_score_backward_args args = {};
  c.bind(args);
  args.dscore = dscore;
  args.dW1 = dW1;
  args.db1 = db1;
  args.dW2 = dW2;
  args.db2 = db2;
  args.dW3 = dW3;
  args.db3 = db3;
  const int64_t tokens = c.L / state.range(2);
  measure(state, threads_of(state, 3), tokens * 5 * (2 * c.N) * (2 * c.N), args,
          hax_key_score_backward_workspace, hax_key_score_backward);
}
BENCHMARK(key_score_backward)
    ->ArgNames({"L", "N", "every", "threads"})
    ->Args({65536, 64, 1, 1})
    ->Args({65536, 64, 1, 2})
    ->Args({65536, 64, 32, 1})
    ->UseRealTime();

// Arguments: L, N, picks, threads.
void ranking_loss_forward(benchmark::State& state) {
  const int64_t L = state.range(0), N = state.range(1), picks = state.range(2);
  const Values q({1, L, 1, N}, -1, 1), k({1, L, 1, N}, -1, 1), score({1, 1, L}, -1, 1);
  Values pick({1, 1, picks}, HAX_INT32);
  for (int64_t m = 0; m < picks; ++m) {
    pick.data<int32_t>()[m] = static_cast<int32_t>(m * (L / picks));
  }
  const Values loss({1}), target({1, 1, picks});
  hax_ranking_loss_forward_args args = {};
  args.q = q;
  args.k = k;
  args.score = score;
  args.pick = pick;
  args.loss = loss;
  args.target = target;
  args.k_scale = 0.125f;
  measure(state, threads_of(state, 3), picks * L / 2 * N, args, hax_ranking_loss_forward_workspace,
          hax_ranking_loss_forward);
}
BENCHMARK(ranking_loss_forward)
    ->ArgNames({"L", "N", "picks", "threads"})
    ->Args({2048, 64, 64, 1})
    ->Args({65536, 64, 64, 1})
    ->Args({65536, 64, 64, 2})
    ->UseRealTime();

enum Order : int64_t { kRandom, kAscending, kConstant };

// Arguments: L, budget, order of the scores.
void key_select(benchmark::State& state) {
  const int64_t L = state.range(0);
  Values score({1, 1, L}, -1, 1);
  for (int64_t t = 0; t < L && state.range(2) != kRandom; ++t) {
    score.data<float>()[t] = state.range(2) == kAscending ? static_cast<float>(t) : 1.0f;
  }
  const Values eviction({1, 1, L}, HAX_INT32);
  hax_key_select_forward_args args = {};
  args.score = score;
  args.eviction = eviction;
  args.budget = static_cast<int32_t>(state.range(1));
  measure(state, 1, L, args, hax_key_select_forward_workspace, hax_key_select_forward);
}
BENCHMARK(key_select)
    ->ArgNames({"L", "budget", "order"})
    ->ArgsProduct({{16384, 1 << 20}, {64, 4096}, {kRandom, kAscending, kConstant}})
    ->UseRealTime();

}  // namespace
