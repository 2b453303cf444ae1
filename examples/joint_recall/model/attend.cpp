#include "model/attend.hpp"

#include "model/operands.hpp"

namespace joint_recall {
namespace {

hax_sparse_pattern make_pattern(const Pass& pass, const Attention& attention, Operands& operands) {
  const KeyPatterns& keys = attention.keys;
  hax_sparse_pattern pattern = {};
  pattern.struct_size = sizeof pattern;
  pattern.patterns = keys.patterns;
  pattern.window = keys.window;
  pattern.sink = keys.sink;
  pattern.dilation = keys.dilation;
  pattern.key_order = operands.int32(keys.key_order, {pass.batch, attention.k_heads, pass.length});
  pattern.begin = operands.int32(keys.begin, {pass.batch, attention.q_heads, pass.length});
  pattern.end = operands.int32(keys.end, {pass.batch, attention.q_heads, pass.length});
  pattern.eviction = operands.int32(keys.eviction, {pass.batch, attention.k_heads, pass.length});
  return pattern;
}

}  // namespace

void attend(Pass& pass, const Attention& a) {
  Operands operands(pass);
  const hax_sparse_pattern pattern = make_pattern(pass, a, operands);
  hax_sparse_attention_forward_args args = {};
  args.struct_size = sizeof args;
  args.q = operands.in(a.q, {a.q_heads, a.q.columns / a.q_heads});
  args.k = operands.in(a.k, {a.k_heads, a.k.columns / a.k_heads});
  args.v = operands.in(a.v, {a.k_heads, a.v.columns / a.k_heads});
  args.cu_seqlens = operands.cu_seqlens();
  args.max_seqlen = pass.max_seqlen;
  args.o = operands.out(a.o, {a.q_heads, a.o.columns / a.q_heads});
  args.lse = operands.fp32(a.lse, {pass.batch, a.q_heads, pass.length});
  args.pattern = &pattern;
  args.scale = a.scale;
  operands.run("sparse_attention_forward", hax_sparse_attention_forward_workspace,
               hax_sparse_attention_forward, args);
}

void attend_backward(Pass& pass, const Attention& a, ConstTokens d_o, Tokens dq, Tokens dk,
                     Tokens dv) {
  Operands operands(pass);
  const hax_sparse_pattern pattern = make_pattern(pass, a, operands);
  hax_sparse_attention_backward_args args = {};
  args.struct_size = sizeof args;
  args.q = operands.in(a.q, {a.q_heads, a.q.columns / a.q_heads});
  args.k = operands.in(a.k, {a.k_heads, a.k.columns / a.k_heads});
  args.v = operands.in(a.v, {a.k_heads, a.v.columns / a.k_heads});
  args.cu_seqlens = operands.cu_seqlens();
  args.max_seqlen = pass.max_seqlen;
  args.o = operands.in(a.o, {a.q_heads, a.o.columns / a.q_heads});
  args.lse = operands.fp32(a.lse, {pass.batch, a.q_heads, pass.length});
  args.d_o = operands.in(d_o, {a.q_heads, a.o.columns / a.q_heads});
  args.dq = operands.out(dq, {a.q_heads, a.q.columns / a.q_heads});
  args.dk = operands.out(dk, {a.k_heads, a.k.columns / a.k_heads});
  args.dv = operands.out(dv, {a.k_heads, a.v.columns / a.k_heads});
  args.pattern = &pattern;
  args.scale = a.scale;
  args.deterministic = 1;
  operands.run("sparse_attention_backward", hax_sparse_attention_backward_workspace,
               hax_sparse_attention_backward, args);
}

}  // namespace joint_recall
