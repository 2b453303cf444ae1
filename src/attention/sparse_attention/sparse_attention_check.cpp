#include <cmath>
#include <limits>

#include "attention/sparse_attention/sparse_attention.hpp"

namespace hax::sparse_attention {
namespace {

struct Shapes {
  Axis batch{"B"}, length{"L"}, q_heads{"Hq"}, k_heads{"Hk"}, d_qk{"Dqk"}, d_v{"Dv"};
  TypeSlot activation{"q"};
};

// A pattern's number: at least 1 if the pattern is asked for, else 0.
int64_t check_number(const Checker& check, const Pattern& p, uint32_t bit, int32_t value,
                     const char* name, const char* bit_name) {
  if (p.has(bit)) {
    check.expect(value >= 1, name, ": expected at least 1 with ", bit_name, ", got ", value);
  } else {
    check.expect(value == 0, name, ": expected 0 without ", bit_name, ", got ", value);
  }
  return value;
}

Tensor check_index(Checker& check, const Pattern& p, uint32_t bit, const hax_tensor* tensor,
                   const char* name, const char* bit_name, Checker::Shape shape) {
  if (p.has(bit)) return check.input(tensor, name, {Type::int32}, shape);
  check.expect(!tensor, name, ": expected NULL without ", bit_name, ", got a tensor");
  return {};
}

Pattern check_pattern(Checker& check, const hax_sparse_pattern* given, const char* function,
                      Shapes& s) {
  constexpr uint32_t kKnown = HAX_PATTERN_FULL | HAX_PATTERN_SLIDING_WINDOW | HAX_PATTERN_SINK |
                              HAX_PATTERN_DILATED | HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION;
  const hax_sparse_pattern args = read_struct(given, function, "pattern");
  Pattern p;
  p.bits = args.patterns;
  check.supported((p.bits & ~kKnown) == 0, "patterns: expected bits of ", kKnown, ", got ", p.bits);
  check.expect(p.bits != 0, "patterns: expected at least one HAX_PATTERN_*, got 0");
  p.window = check_number(check, p, HAX_PATTERN_SLIDING_WINDOW, args.window, "window",
                          "HAX_PATTERN_SLIDING_WINDOW");
  p.sink = check_number(check, p, HAX_PATTERN_SINK, args.sink, "sink", "HAX_PATTERN_SINK");
  p.dilation =
      check_number(check, p, HAX_PATTERN_DILATED, args.dilation, "dilation", "HAX_PATTERN_DILATED");
  const Checker::Shape of_keys = {&s.batch, &s.k_heads, &s.length};
  const Checker::Shape of_queries = {&s.batch, &s.q_heads, &s.length};
  constexpr const char* lsh = "HAX_PATTERN_LSH";
  p.key_order = check_index(check, p, HAX_PATTERN_LSH, args.key_order, "key_order", lsh, of_keys);
  p.begin = check_index(check, p, HAX_PATTERN_LSH, args.begin, "begin", lsh, of_queries);
  p.end = check_index(check, p, HAX_PATTERN_LSH, args.end, "end", lsh, of_queries);
  p.eviction = check_index(check, p, HAX_PATTERN_KEY_SELECTION, args.eviction, "eviction",
                           "HAX_PATTERN_KEY_SELECTION", of_keys);
  return p;
}

template <class Args>
void check_problem(Checker& check, const Args& args, const char* function, Shapes& s, Problem& p) {
  p.q = check.input(args.q, "q", s.activation, {&s.batch, &s.length, &s.q_heads, &s.d_qk});
  p.k = check.input(args.k, "k", s.activation, {&s.batch, &s.length, &s.k_heads, &s.d_qk});
  p.v = check.input(args.v, "v", s.activation, {&s.batch, &s.length, &s.k_heads, &s.d_v});
  check.divides(s.k_heads, s.q_heads);
  check.range(s.d_qk, 1, kMaxWidth);
  check.range(s.d_v, 1, kMaxWidth);
  check.range(s.length, 0, std::numeric_limits<int32_t>::max());  // positions are int32
  p.q_heads = s.q_heads.value;
  p.k_heads = s.k_heads.value;
  p.d_qk = s.d_qk.value;
  p.d_v = s.d_v.value;
  p.pattern = check_pattern(check, args.pattern, function, s);
  p.sequences = check.sequences(args.cu_seqlens, s.batch, s.length, args.max_seqlen);
  check.expect(std::isfinite(args.scale) && args.scale != 0.0f,
               "scale: expected a finite number other than 0, got ", args.scale);
  p.scale = args.scale;
}

}  // namespace

ForwardParams Forward::check(Checker& check, const Args& args) {
  Shapes s;
  ForwardParams p;
  check_problem(check, args, name, s, p);
  p.o = check.output(args.o, "o", s.activation, {&s.batch, &s.length, &s.q_heads, &s.d_v});
  p.lse = check.optional_output(args.lse, "lse", {Type::fp32}, {&s.batch, &s.q_heads, &s.length});
  p.device = check.device();
  return p;
}

BackwardParams Backward::check(Checker& check, const Args& args) {
  Shapes s;
  BackwardParams p;
  check_problem(check, args, name, s, p);
  const Checker::Shape like_q = {&s.batch, &s.length, &s.q_heads, &s.d_qk};
  const Checker::Shape like_o = {&s.batch, &s.length, &s.q_heads, &s.d_v};
  const Checker::Shape like_lse = {&s.batch, &s.q_heads, &s.length};
  p.o = check.input(args.o, "o", s.activation, like_o);
  p.lse = check.input(args.lse, "lse", {Type::fp32}, like_lse);
  p.d_o = check.input(args.d_o, "d_o", s.activation, like_o);
  p.dlse = check.optional_input(args.dlse, "dlse", {Type::fp32}, like_lse);
  p.dq = check.optional_output(args.dq, "dq", s.activation, like_q);
  p.dk = check.optional_output(args.dk, "dk", s.activation,
                               {&s.batch, &s.length, &s.k_heads, &s.d_qk});
  p.dv =
      check.optional_output(args.dv, "dv", s.activation, {&s.batch, &s.length, &s.k_heads, &s.d_v});
  check.flag(args.deterministic, "deterministic");
  p.deterministic = args.deterministic != 0;
  p.device = check.device();
  return p;
}

}  // namespace hax::sparse_attention
