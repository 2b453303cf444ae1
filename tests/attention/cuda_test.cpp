// What only CUDA calls promise, see support/cuda_call.hpp.
#ifdef HAX_WITH_CUDA
#include "attention/sparse_attention_case.hpp"
#include "support/cuda_call.hpp"

namespace hax_test {
namespace {

// A call that owns its pattern.
template <class Args>
class AttentionCall : public CallOf<Args> {
 public:
  using CallOf<Args>::CallOf;

  void set_pattern(const AttentionCase& c, const AttentionData& data) {
    pattern_ = PatternArguments(c, data).pattern;
    pattern_.key_order = index(data.key_order);
    pattern_.begin = index(data.begin);
    pattern_.end = index(data.end);
    pattern_.eviction = index(data.eviction);
    this->args().pattern = &pattern_;
    this->args().scale = static_cast<float>(c.scale);
  }

 private:
  const hax_tensor* index(const Array& values) {
    if (!values.present()) return nullptr;
    indices_.push_back(std::make_unique<DeviceTensor>(values, kInt32));
    return indices_.back()->arg();
  }

  hax_sparse_pattern pattern_ = {};
  std::vector<std::unique_ptr<DeviceTensor>> indices_;
};

AttentionCase case_of(uint64_t seed, int64_t length, uint32_t patterns) {
  return {.batch = 1,
          .length = length,
          .q_heads = 2,
          .k_heads = 1,
          .d_qk = 32,
          .d_v = 32,
          .patterns = patterns,
          .lsh_budget = 16,
          .selection_budget = 16,
          .codes = 20,
          .type = kBf16,
          .seed = seed};
}

std::unique_ptr<Call> forward(const AttentionCase& c) {
  using Args = hax_sparse_attention_forward_args;
  auto call = std::make_unique<AttentionCall<Args>>(hax_sparse_attention_forward_workspace,
                                                    hax_sparse_attention_forward);
  const AttentionData data(c);
  call->set_pattern(c, data);
  call->in(&Args::q, data.oracle.q, c.type);
  call->in(&Args::k, data.oracle.k, c.type);
  call->in(&Args::v, data.oracle.v, c.type);
  call->out(&Args::o, c.o_shape(), c.type);
  call->out(&Args::lse, c.lse_shape(), kFp32);
  return call;
}

class CudaAttention : public CudaCalls {
 protected:
  static std::vector<MakeCall> calls() {
    std::vector<MakeCall> list;
    for (const int64_t length : {300, 2200}) {
      for (const uint32_t patterns :
           {uint32_t{HAX_PATTERN_FULL}, uint32_t{HAX_PATTERN_SLIDING_WINDOW}, kHaxPatterns, 62u}) {
        list.push_back([=](uint64_t seed) { return forward(case_of(seed, length, patterns)); });
      }
    }
    return list;
  }
};

TEST_F(CudaAttention, CapturedIntoAGraphAndReplayed) {
  for (const MakeCall& make : calls()) expect_graph_replays(make);
}

TEST_F(CudaAttention, ManyStreamsAndThreadsAtOnce) {
  for (const MakeCall& make : calls()) expect_streams_and_threads(make);
}

// Indices outside their sequence can't be reported; they must do no harm beyond wrong outputs.
TEST_F(CudaAttention, IndicesOutOfRangeTouchNothingElse) {
  for (const int64_t length : {300, 2200}) {
    const AttentionCase c = case_of(3, length, 62);
    AttentionData data(c);
    const double wrong[] = {-1.0, 2147483647.0, -2147483648.0, static_cast<double>(length), 0.0};
    size_t next = 0;
    for (Array* a : {&data.key_order, &data.begin, &data.end, &data.eviction}) {
      for (double& x : a->data) {
        if (next++ % 3 == 0) x = wrong[next % std::size(wrong)];
      }
    }
    const TestContext context;
    run_forward(c, data, context);
    expect_cuda(cudaDeviceSynchronize());
  }
}

}  // namespace
}  // namespace hax_test
#endif
