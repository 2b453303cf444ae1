#include "attention/layer_attention/layer_attention_cuda.hpp"
#include "core/backend.hpp"

namespace hax::layer_attention {
namespace {

// Room for a tensor that passes between operators, each of which has its own view of it.
template <class... Views>
void place(Workspace& workspace, Tensor& first, Views&... others) {
  first.data = workspace.take<char>(first.numel() * size_of(first.type));
  ((others.data = first.data), ...);
}

}  // namespace

ForwardPlan Forward::plan(const ForwardParams& params, const Context& context,
                          Workspace& workspace) {
  ForwardPlan p = params;
  sparse_attention::Pattern& keys = p.attend.params.pattern;
  if (p.bucket.wanted) {
    lsh_bucket::Params& bucket = p.bucket.params;
    place(workspace, p.hash_q.params.code, bucket.code_q);
    place(workspace, p.hash_k.params.code, bucket.code_k);
    if (p.inner_order) place(workspace, bucket.key_order, keys.key_order);
    if (p.inner_begin) place(workspace, bucket.begin, keys.begin);
    if (p.inner_end) place(workspace, bucket.end, keys.end);
  }
  if (p.select.wanted) {
    if (p.inner_score) {
      place(workspace, p.score.params.score, p.select.params.score, p.rank.params.score);
    }
    if (p.inner_eviction) place(workspace, p.select.params.eviction, keys.eviction);
  }
  workspace.take_in_turn([&](Workspace& w) { p.hash_q.make_plan(context, w); },
                         [&](Workspace& w) { p.hash_k.make_plan(context, w); },
                         [&](Workspace& w) { p.bucket.make_plan(context, w); },
                         [&](Workspace& w) { p.score.make_plan(context, w); },
                         [&](Workspace& w) { p.select.make_plan(context, w); },
                         [&](Workspace& w) { p.rank.make_plan(context, w); },
                         [&](Workspace& w) { p.attend.make_plan(context, w); });
  return p;
}

void Forward::run(const ForwardParams&, const ForwardPlan& p, const Context& context,
                  void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.attend.params.device, name) && chooses_at_once(p)) {
      return cuda_forward_short(p, context, stream);
    }
  }
  p.hash_q.run(context, stream);
  p.hash_k.run(context, stream);
  p.bucket.run(context, stream);
  p.score.run(context, stream);
  p.select.run(context, stream);
  p.rank.run(context, stream);
  p.attend.run(context, stream);
}

BackwardPlan Backward::plan(const BackwardParams& params, const Context& context,
                            Workspace& workspace) {
  BackwardPlan p = params;
  if (p.rank.wanted) place(workspace, p.rank.params.dscore, p.score.params.dscore);
  workspace.take_in_turn([&](Workspace& w) { p.attend.make_plan(context, w); },
                         [&](Workspace& w) { p.rank.make_plan(context, w); },
                         [&](Workspace& w) { p.score.make_plan(context, w); });
  return p;
}

void Backward::run(const BackwardParams&, const BackwardPlan& p, const Context& context,
                   void* stream) {
  p.attend.run(context, stream);
  p.rank.run(context, stream);
  p.score.run(context, stream);
}

}  // namespace hax::layer_attention
