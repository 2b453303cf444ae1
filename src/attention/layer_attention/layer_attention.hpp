// layer_attention's rooms: check (arguments to the Params of each operator it consists of), plan (workspace, and
// the operators run one after the other), launch and a kernel (CUDA, short sequences).
#pragma once

#include <utility>

#include "attention/sparse_attention/sparse_attention.hpp"
#include "hash/key_score/key_score.hpp"
#include "hash/key_select/key_select.hpp"
#include "hash/lsh_bucket/lsh_bucket.hpp"
#include "hash/lsh_hash/lsh_hash.hpp"
#include "hash/ranking_loss/ranking_loss.hpp"
#include "hax/layer_attention.h"

namespace hax::layer_attention {

// An operator's part in the call.
template <class Operation>
struct Part {
  using Params = decltype(Operation::check(std::declval<Checker&>(),
                                           std::declval<const typename Operation::Args&>()));
  using Plan = decltype(Operation::plan(
      std::declval<const Params&>(), std::declval<const Context&>(), std::declval<Workspace&>()));
  bool wanted = false;
  Params params = {};
  Plan plan = {};

  void make_plan(const Context& context, Workspace& workspace) {
    if (wanted) plan = Operation::plan(params, context, workspace);
  }
  void run(const Context& context, void* stream) const {
    if (wanted) Operation::run(params, plan, context, stream);
  }
};

// The data of tensors marked inner lies in the workspace: plan puts it there.
struct ForwardParams {
  Part<lsh_hash::Forward> hash_q, hash_k;
  Part<lsh_bucket::Forward> bucket;
  Part<key_score::Forward> score;
  Part<key_select::Forward> select;
  Part<ranking_loss::Forward> rank;
  Part<sparse_attention::Forward> attend;
  bool inner_order, inner_begin, inner_end, inner_score, inner_eviction;
  bool at_once = false;  // planned: CUDA, a launch chooses all keys
};
using ForwardPlan = ForwardParams;  // with all plans made

struct BackwardParams {
  Part<sparse_attention::Backward> attend;
  Part<ranking_loss::Backward> rank;
  Part<key_score::Backward> score;  // rank's dscore is inner
};
using BackwardPlan = BackwardParams;

struct Forward {
  using Args = hax_layer_attention_forward_args;
  static constexpr const char* name = "hax_layer_attention_forward";
  static ForwardParams check(Checker&, const Args&);
  static ForwardPlan plan(const ForwardParams&, const Context&, Workspace&);
  static void run(const ForwardParams&, const ForwardPlan&, const Context&, void* stream);
};

struct Backward {
  using Args = hax_layer_attention_backward_args;
  static constexpr const char* name = "hax_layer_attention_backward";
  static BackwardParams check(Checker&, const Args&);
  static BackwardPlan plan(const BackwardParams&, const Context&, Workspace&);
  static void run(const BackwardParams&, const BackwardPlan&, const Context&, void* stream);
};

}  // namespace hax::layer_attention
