// The promise that no sequence is longer, to attention and to the whole layer.
#include <memory>

#include "attention/layer_attention_case.hpp"
#include "support/max_seqlen.hpp"

namespace hax_test {
namespace {

LayerCase promise_case(hax_data_type type) {
  return {.batch = 1,
          .length = kPromiseLength,
          .q_heads = 1,
          .k_heads = 1,
          .features = 32,
          .d_v = 40,
          .cu_seqlens = kPromiseBoundaries,
          .type = type};
}

class MaxSeqlenOf : public testing::TestWithParam<bool> {
 protected:
  const LayerCase case_ = promise_case(GetParam() ? kBf16 : kFp32);

  // Tensors of a call; those of the last one live on.
  const LayerTensors& fresh() {
    tensors_.push_back(std::make_unique<LayerTensors>(case_));
    return *tensors_.back();
  }
  // With the results of forward.
  const LayerTensors& attended() {
    const LayerTensors& t = fresh();
    EXPECT_EQ(run(hax_layer_attention_forward_workspace, hax_layer_attention_forward, context_,
                  forward_args(case_, t)),
              HAX_SUCCESS)
        << hax_last_error();
    return t;
  }

  const TestContext context_;

 private:
  std::vector<std::unique_ptr<LayerTensors>> tensors_;
};

TEST_P(MaxSeqlenOf, LayerAttention) {
  expect_promise_kept(hax_layer_attention_forward_workspace, hax_layer_attention_forward,
                      [&](hax_layer_attention_forward_args& args) {
                        const LayerTensors& t = fresh();
                        args = forward_args(case_, t);
                        return std::vector<Argument>{t.o,   t.lse,   t.key_order, t.begin,
                                                     t.end, t.score, t.eviction,  t.loss};
                      });
}

TEST_P(MaxSeqlenOf, LayerAttentionBackward) {
  expect_promise_kept(hax_layer_attention_backward_workspace, hax_layer_attention_backward,
                      [&](hax_layer_attention_backward_args& args) {
                        const LayerTensors& t = attended();
                        args = backward_args(case_, t);
                        return std::vector<Argument>{t.dq, t.dk, t.dv, t.dW1, t.dW3};
                      });
}

TEST_P(MaxSeqlenOf, SparseAttention) {
  const LayerTensors& chosen = attended();
  const hax_sparse_pattern pattern = pattern_of(case_, chosen);
  expect_promise_kept(hax_sparse_attention_forward_workspace, hax_sparse_attention_forward,
                      [&](hax_sparse_attention_forward_args& args) {
                        const LayerTensors& t = fresh();
                        args.q = t.q.arg();
                        args.k = t.k.arg();
                        args.v = t.v.arg();
                        args.cu_seqlens = t.cu_seqlens.arg();
                        args.o = t.o.arg();
                        args.lse = t.lse.arg();
                        args.pattern = &pattern;
                        args.scale = kScale;
                        return std::vector<Argument>{t.o, t.lse};
                      });
}

TEST_P(MaxSeqlenOf, SparseAttentionBackward) {
  const LayerTensors& chosen = attended();
  const hax_sparse_pattern pattern = pattern_of(case_, chosen);
  expect_promise_kept(hax_sparse_attention_backward_workspace, hax_sparse_attention_backward,
                      [&](hax_sparse_attention_backward_args& args) {
                        const LayerTensors& t = fresh();
                        args.q = t.q.arg();
                        args.k = t.k.arg();
                        args.v = t.v.arg();
                        args.cu_seqlens = t.cu_seqlens.arg();
                        args.o = chosen.o.arg();
                        args.lse = chosen.lse.arg();
                        args.d_o = t.d_o.arg();
                        args.dq = t.dq.arg();
                        args.dk = t.dk.arg();
                        args.dv = t.dv.arg();
                        args.pattern = &pattern;
                        args.scale = kScale;
                        args.deterministic = 1;
                        return std::vector<Argument>{t.dq, t.dk, t.dv};
                      });
}

INSTANTIATE_TEST_SUITE_P(Types, MaxSeqlenOf, testing::Bool(),
                         [](const auto& type) { return type.param ? "bf16" : "fp32"; });

}  // namespace
}  // namespace hax_test
