#include "attention/layer_attention/layer_attention_cuda.hpp"
#include "core/backend.hpp"

namespace hax::layer_attention {
namespace {

// CUDA: whether all sequences are short, and the call is one for which a launch chooses all keys at once.
bool chooses_at_once(const ForwardParams& p) {
  if (p.attend.params.device.type == HAX_DEVICE_CPU || !p.bucket.wanted || !p.select.wanted) {
    return false;
  }
  const sparse_attention::CudaPath path = sparse_attention::choose_cuda_path(p.attend.params);
  return path.lsh && path.select && !path.sparse && p.bucket.params.num_bits <= kMostBitsAtOnce &&
         p.select.params.budget <= kLargestBudgetAtOnce;
}

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
  lsh_bucket::Params& bucket = p.bucket.params;
  const auto place_codes = [&](Workspace& w) {
    if (!p.bucket.wanted) return;
    place(w, p.hash_q.params.code, bucket.code_q);
    place(w, p.hash_k.params.code, bucket.code_k);
  };
  const auto place_score = [&](Workspace& w) {
    if (!p.inner_score || !p.select.wanted) return;
    place(w, p.score.params.score, p.select.params.score, p.rank.params.score);
  };
  const auto place_eviction = [&](Workspace& w) {
    if (!p.inner_eviction || !p.select.wanted) return;
    place(w, p.select.params.eviction, keys.eviction);
  };
  if (p.bucket.wanted) {
    if (p.inner_order) place(workspace, bucket.key_order, keys.key_order);
    if (p.inner_begin) place(workspace, bucket.begin, keys.begin);
    if (p.inner_end) place(workspace, bucket.end, keys.end);
  }
  const auto hash = [&](Workspace& w) {
    w.take_in_turn([&](Workspace& turn) { p.hash_q.make_plan(context, turn); },
                   [&](Workspace& turn) { p.hash_k.make_plan(context, turn); },
                   [&](Workspace& turn) { p.bucket.make_plan(context, turn); });
  };
  const auto score = [&](Workspace& w) {
    w.take_in_turn([&](Workspace& turn) { p.score.make_plan(context, turn); },
                   [&](Workspace& turn) { p.select.make_plan(context, turn); },
                   [&](Workspace& turn) { p.rank.make_plan(context, turn); });
  };
  const auto attend = [&](Workspace& w) { p.attend.make_plan(context, w); };
  p.at_once = chooses_at_once(p);
  if (p.at_once) {  // what passes between operators must not share memory with the indices
    place_codes(workspace);
    place_score(workspace);
    place_eviction(workspace);
    workspace.take_in_turn(hash, score, attend);
    return p;
  }
  workspace.take_in_turn(
      [&](Workspace& w) {
        place_codes(w);
        hash(w);
      },
      [&](Workspace& w) {
        place_eviction(w);
        w.take_in_turn(
            [&](Workspace& turn) {
              place_score(turn);
              score(turn);
            },
            attend);
      });
  return p;
}

void Forward::run(const ForwardParams&, const ForwardPlan& p, const Context& context,
                  void* stream) {
  if constexpr (kWithCuda) {
    if (p.at_once) return cuda_forward_short(p, context, stream);
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
