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

std::unique_ptr<Call> backward(const AttentionCase& c) {
  using Args = hax_sparse_attention_backward_args;
  auto call = std::make_unique<AttentionCall<Args>>(hax_sparse_attention_backward_workspace,
                                                    hax_sparse_attention_backward);
  const AttentionData data(c);
  call->set_pattern(c, data);
  call->in(&Args::q, data.oracle.q, c.type);
  call->in(&Args::k, data.oracle.k, c.type);
  call->in(&Args::v, data.oracle.v, c.type);
  // Not forward's, but as good for bits that repeat.
  call->in(&Args::o, random_normal(c.o_shape(), c.seed + 5), c.type);
  Array lse = random_normal(c.lse_shape(), c.seed + 6);
  for (double& x : lse.data) x += 5.0;
  call->in(&Args::lse, lse, kFp32);
  call->in(&Args::d_o, data.d_o, c.type);
  call->in(&Args::dlse, data.dlse, kFp32);
  call->out(&Args::dq, c.q_shape(), c.type);
  call->out(&Args::dk, c.k_shape(), c.type);
  call->out(&Args::dv, c.v_shape(), c.type);
  call->args().deterministic = 1;
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
        list.push_back([=](uint64_t seed) { return backward(case_of(seed, length, patterns)); });
      }
    }
    return list;
  }
};

TEST_F(CudaAttention, CapturedIntoAGraphAndReplayed) {
  int number = 0;
  for (const MakeCall& make : calls()) {
    SCOPED_TRACE("call " + std::to_string(number++));
    expect_graph_replays(make);
  }
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
    const AttentionOutputs outputs = run_forward(c, data, context);
    expect_cuda(cudaDeviceSynchronize());
    run_backward(c, data, outputs, context);
    expect_cuda(cudaDeviceSynchronize());
  }
}

// Only shapes count, so no GPU is needed.
TEST(CudaAttentionWorkspace, AtMost40BytesATokenAndHead) {
  constexpr int64_t kLength = 131072, kHeads = 16;
  const auto tensor = [](std::vector<int64_t>& shape, hax_data_type type) {
    return hax_tensor{nullptr, {HAX_DEVICE_CUDA, 0}, static_cast<int32_t>(shape.size()),
                      type,    shape.data(),         nullptr,
                      0};
  };
  std::vector<int64_t> wide = {1, kLength, kHeads, 64}, wider = {1, kLength, kHeads, 128};
  std::vector<int64_t> per_row = {1, kHeads, kLength};
  const hax_tensor q = tensor(wide, kBf16), v = tensor(wider, kBf16), lse = tensor(per_row, kFp32);
  const hax_tensor index = tensor(per_row, kInt32);
  const TestContext context;
  for (const uint32_t patterns : {uint32_t{HAX_PATTERN_LSH}, kHaxPatterns, 62u}) {
    hax_sparse_pattern pattern = {sizeof(pattern), patterns, 0,      0,      0,
                                  &index,          &index,   &index, nullptr};
    if (patterns & HAX_PATTERN_KEY_SELECTION) pattern.eviction = &index;
    if (patterns == 62u) pattern.window = pattern.sink = pattern.dilation = 64;
    const hax_sparse_attention_forward_args args = {sizeof(args), &q,   &q,       &q,   nullptr,
                                                    &q,           &lse, &pattern, 1.0f, 0};
    size_t bytes = 0;
    ASSERT_EQ(hax_sparse_attention_forward_workspace(context, &args, &bytes), HAX_SUCCESS)
        << hax_last_error();
    EXPECT_LE(bytes, static_cast<size_t>(40 * kLength * kHeads));
    const hax_sparse_attention_backward_args backward_args = {sizeof(backward_args),
                                                              &q,
                                                              &q,
                                                              &v,
                                                              nullptr,
                                                              &v,
                                                              &lse,
                                                              &v,
                                                              nullptr,
                                                              &q,
                                                              &q,
                                                              &v,
                                                              &pattern,
                                                              1.0f,
                                                              0,
                                                              0};
    ASSERT_EQ(hax_sparse_attention_backward_workspace(context, &backward_args, &bytes), HAX_SUCCESS)
        << hax_last_error();
    EXPECT_LE(bytes, static_cast<size_t>(40 * kLength * kHeads));
  }
}

// The whole layer in one call, with nothing but its outputs in the caller's memory.
TEST(CudaAttentionWorkspace, AtMost40BytesATokenAndHeadForTheWholeLayer) {
  constexpr int64_t kLength = 131072, kHeads = 16;
  const auto tensor = [](std::vector<int64_t>& shape, hax_data_type type) {
    return hax_tensor{nullptr, {HAX_DEVICE_CUDA, 0}, static_cast<int32_t>(shape.size()),
                      type,    shape.data(),         nullptr,
                      0};
  };
  std::vector<int64_t> wide = {1, kLength, kHeads, 64}, wider = {1, kLength, kHeads, 128};
  std::vector<int64_t> per_row = {1, kHeads, kLength}, hash = {64, 8}, square = {128, 128};
  std::vector<int64_t> line = {1, 128}, bias = {128}, one = {1};
  const hax_tensor q = tensor(wide, kBf16), v = tensor(wider, kBf16), lse = tensor(per_row, kFp32);
  const hax_tensor R = tensor(hash, kFp32), W = tensor(square, kFp32), W3 = tensor(line, kFp32);
  const hax_tensor b = tensor(bias, kFp32), b3 = tensor(one, kFp32);
  hax_layer_attention_forward_args args = {};
  args.struct_size = sizeof(args);
  args.q = args.k = &q;
  args.v = args.o = &v;
  args.lse = &lse;
  args.R = &R;
  args.W1 = args.W2 = &W;
  args.W3 = &W3;
  args.b1 = args.b2 = &b;
  args.b3 = &b3;
  args.patterns = kHaxPatterns;
  args.lsh_budget = args.selection_budget = 32;
  args.statistics = HAX_LSH_STATISTICS_SEQUENCE;
  args.scale = 1.0f;
  const TestContext context;
  size_t bytes = 0;
  ASSERT_EQ(hax_layer_attention_forward_workspace(context, &args, &bytes), HAX_SUCCESS)
      << hax_last_error();
  EXPECT_LE(bytes, static_cast<size_t>(40 * kLength * kHeads));
}

}  // namespace
}  // namespace hax_test
#endif
