// What only CUDA calls promise, for hashing and key selection: see tests/support/cuda_call.hpp.
#ifdef HAX_WITH_CUDA
#include <cmath>

#include "support/cuda_call.hpp"

namespace hax_test {
namespace {

Array tokens(int64_t length, uint64_t seed) { return random_normal({2, length, 2, 16}, seed); }

std::unique_ptr<Call> hash(int32_t statistics, int64_t length, uint64_t seed) {
  using Args = hax_lsh_hash_forward_args;
  auto call = std::make_unique<CallOf<Args>>(hax_lsh_hash_forward_workspace, hax_lsh_hash_forward);
  call->in(&Args::x, tokens(length, seed), kBf16);
  call->in(&Args::R, random_normal({16, 12}, seed + 1), kFp32);
  call->out(&Args::code, {2, 2, length}, kInt64);
  call->args().statistics = statistics;
  return call;
}
std::unique_ptr<Call> plain_hash(uint64_t seed) { return hash(HAX_LSH_STATISTICS_NONE, 300, seed); }
std::unique_ptr<Call> sequence_hash(uint64_t seed) {
  return hash(HAX_LSH_STATISTICS_SEQUENCE, 300, seed);
}
std::unique_ptr<Call> long_sequence_hash(uint64_t seed) {
  return hash(HAX_LSH_STATISTICS_SEQUENCE, 3000, seed);
}
std::unique_ptr<Call> causal_hash(uint64_t seed) {
  return hash(HAX_LSH_STATISTICS_CAUSAL, 300, seed);
}

std::unique_ptr<Call> bucket(int64_t length, uint64_t seed) {
  using Args = hax_lsh_bucket_forward_args;
  auto call =
      std::make_unique<CallOf<Args>>(hax_lsh_bucket_forward_workspace, hax_lsh_bucket_forward);
  for (const hax_tensor* Args::*field : {&Args::code_q, &Args::code_k}) {
    Array codes = random_normal({1, 2, length}, ++seed);
    for (double& code : codes.data)
      code = std::abs(static_cast<double>(static_cast<int>(1000 * code)));
    call->in(field, codes, kInt64);
  }
  for (const hax_tensor* Args::*field : {&Args::key_order, &Args::begin, &Args::end}) {
    call->out(field, {1, 2, length}, kInt32);
  }
  call->args().num_bits = 13;
  call->args().budget = 9;
  return call;
}
std::unique_ptr<Call> short_bucket(uint64_t seed) { return bucket(500, seed); }
std::unique_ptr<Call> long_bucket(uint64_t seed) { return bucket(6000, seed); }

std::unique_ptr<Call> select(int64_t length, int32_t budget, uint64_t seed) {
  using Args = hax_key_select_forward_args;
  auto call =
      std::make_unique<CallOf<Args>>(hax_key_select_forward_workspace, hax_key_select_forward);
  call->in(&Args::score, random_normal({1, 2, length}, seed), kFp32);
  call->out(&Args::eviction, {1, 2, length}, kInt32);
  call->args().budget = budget;
  return call;
}
std::unique_ptr<Call> short_select(uint64_t seed) { return select(500, 20, seed); }
std::unique_ptr<Call> long_select(uint64_t seed) { return select(6000, 50, seed); }
std::unique_ptr<Call> large_select(uint64_t seed) { return select(2000, 700, seed); }

template <class Args>
void add_score_inputs(CallOf<Args>& call, uint64_t seed) {
  call.in(&Args::q, tokens(300, seed), kBf16);
  call.in(&Args::k, tokens(300, seed + 1), kBf16);
  call.in(&Args::W1, random_normal({32, 32}, seed + 2, 0.0, 0.2), kBf16);
  call.in(&Args::b1, random_normal({32}, seed + 3), kFp32);
  call.in(&Args::W2, random_normal({32, 32}, seed + 4, 0.0, 0.2), kFp32);
  call.in(&Args::b2, random_normal({32}, seed + 5), kFp32);
  call.in(&Args::W3, random_normal({1, 32}, seed + 6), kBf16);
  call.in(&Args::b3, random_normal({1}, seed + 7), kFp32);
  call.args().k_scale = 0.25f;
  call.args().normalization = HAX_KEY_SCORE_NORM_SEQUENCE;
}

std::unique_ptr<Call> score_forward(uint64_t seed) {
  using Args = hax_key_score_forward_args;
  auto call =
      std::make_unique<CallOf<Args>>(hax_key_score_forward_workspace, hax_key_score_forward);
  add_score_inputs(*call, seed);
  call->out(&Args::score, {2, 2, 300}, kFp32);
  return call;
}

std::unique_ptr<Call> score_backward(uint64_t seed) {
  using Args = hax_key_score_backward_args;
  auto call =
      std::make_unique<CallOf<Args>>(hax_key_score_backward_workspace, hax_key_score_backward);
  add_score_inputs(*call, seed);
  call->in(&Args::dscore, random_normal({2, 2, 300}, seed + 8), kFp32);
  call->out(&Args::dW1, {32, 32}, kFp32);
  call->out(&Args::db1, {32}, kFp32);
  call->out(&Args::dW2, {32, 32}, kFp32);
  call->out(&Args::db2, {32}, kFp32);
  call->out(&Args::dW3, {1, 32}, kFp32);
  call->out(&Args::db3, {1}, kFp32);
  call->args().deterministic = 1;
  return call;
}

Array picks() {
  Array pick({2, 2, 5});
  for (size_t i = 0; i < pick.data.size(); ++i) {
    pick.data[i] = i % 5 == 3 ? -1.0 : static_cast<double>(i * 13 % 300);
  }
  return pick;
}

std::unique_ptr<Call> loss_forward(uint64_t seed) {
  using Args = hax_ranking_loss_forward_args;
  auto call =
      std::make_unique<CallOf<Args>>(hax_ranking_loss_forward_workspace, hax_ranking_loss_forward);
  call->in(&Args::q, tokens(300, seed), kBf16);
  call->in(&Args::k, tokens(300, seed + 1), kBf16);
  call->in(&Args::score, random_normal({2, 2, 300}, seed + 2), kFp32);
  call->in(&Args::pick, picks(), kInt32);
  call->out(&Args::loss, {1}, kFp32);
  call->out(&Args::target, {2, 2, 5}, kFp32);
  call->args().k_scale = 0.25f;
  return call;
}

std::unique_ptr<Call> loss_backward(uint64_t seed) {
  using Args = hax_ranking_loss_backward_args;
  auto call = std::make_unique<CallOf<Args>>(hax_ranking_loss_backward_workspace,
                                             hax_ranking_loss_backward);
  call->in(&Args::score, random_normal({2, 2, 300}, seed), kFp32);
  call->in(&Args::pick, picks(), kInt32);
  call->in(&Args::target, random_normal({2, 2, 5}, seed + 1), kFp32);
  call->in(&Args::dloss, Array({1}, 0.5), kFp32);
  call->out(&Args::dscore, {2, 2, 300}, kFp32);
  return call;
}

const MakeCall kCalls[] = {plain_hash,   sequence_hash, long_sequence_hash, causal_hash,
                           short_bucket, long_bucket,   short_select,       long_select,
                           large_select, score_forward, score_backward,     loss_forward,
                           loss_backward};

TEST_F(CudaCalls, HashingCapturedIntoAGraphAndReplayed) {
  for (const MakeCall& make : kCalls) expect_graph_replays(make);
}

TEST_F(CudaCalls, HashingOnManyStreamsAndThreadsAtOnce) {
  for (const MakeCall& make : kCalls) expect_streams_and_threads(make);
}

}  // namespace
}  // namespace hax_test
#endif
