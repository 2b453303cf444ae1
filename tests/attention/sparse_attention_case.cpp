#include "attention/sparse_attention_case.hpp"

#include <algorithm>
#include <numeric>
#include <random>

namespace hax_test {
namespace {

double forward_tolerance(hax_data_type type) {
  if (type.bits == 32) return 1e-5;
  return type.code == HAX_TYPE_BFLOAT ? 1e-2 : 2e-3;
}

// Codes of the tokens of one head of one sequence.
std::vector<uint64_t> random_codes(const AttentionCase& c, int64_t stream, uint64_t salt,
                                   int64_t length) {
  std::mt19937_64 engine(c.seed * 1000003 + static_cast<uint64_t>(stream) * 2 + salt);
  std::vector<uint64_t> codes(static_cast<size_t>(length));
  for (uint64_t& code : codes) code = engine() % c.codes;
  return codes;
}

// Keys sorted by (code, position), and for each query the range of its candidates among them.
void make_lsh_head(const AttentionCase& c, const std::vector<uint64_t>& codes_k,
                   const Sequence& seq, int64_t row, int64_t head, Array& key_order) {
  std::vector<int64_t> order(static_cast<size_t>(seq.length));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return codes_k[static_cast<size_t>(a)] < codes_k[static_cast<size_t>(b)];
  });
  const int64_t first = seq.first_row - row * c.length;
  for (int64_t t = 0; t < seq.length; ++t) {
    key_order.at(row, head, first + t) = static_cast<double>(order[static_cast<size_t>(t)]);
  }
}

void make_lsh_ranges(const AttentionCase& c, const std::vector<uint64_t>& codes_q,
                     const std::vector<uint64_t>& codes_k, const Sequence& seq, int64_t row,
                     int64_t head, Array& begin, Array& end) {
  const int64_t first = seq.first_row - row * c.length;
  for (int64_t i = 0; i < seq.length; ++i) {
    const uint64_t code = codes_q[static_cast<size_t>(i)];
    int64_t past = 0, smaller = 0;
    for (int64_t j = 0; j < seq.length; ++j) {
      smaller += codes_k[static_cast<size_t>(j)] < code;
      past += j <= i && codes_k[static_cast<size_t>(j)] == code;
    }
    end.at(row, head, first + i) = static_cast<double>(smaller + past);
    begin.at(row, head, first + i) =
        static_cast<double>(smaller + past - std::min(past, c.lsh_budget));
  }
}

std::vector<int64_t> make_eviction(const AttentionCase& c, int64_t stream, const Sequence& seq,
                                   int64_t row, int64_t head, Array& eviction) {
  std::mt19937_64 engine(c.seed * 7919 + static_cast<uint64_t>(stream));
  std::vector<double> scores(static_cast<size_t>(seq.length));
  for (double& score : scores) score = static_cast<double>(engine() % 16);  // with ties
  const auto evicted = oracle_key_select(scores, c.selection_budget);
  for (int64_t t = 0; t < seq.length; ++t) {
    eviction.at(row, head, seq.first_row - row * c.length + t) =
        static_cast<double>(evicted[static_cast<size_t>(t)]);
  }
  return evicted;
}

}  // namespace

std::string describe(const AttentionCase& c) {
  std::string text = "B" + std::to_string(c.batch) + " L" + std::to_string(c.length) + " Hq" +
                     std::to_string(c.q_heads) + " Hk" + std::to_string(c.k_heads) + " Dqk" +
                     std::to_string(c.d_qk) + " Dv" + std::to_string(c.d_v) + " patterns " +
                     std::to_string(c.patterns) + " " + name_of(c.type) + " " + name_of(c.layout);
  if (!c.cu_seqlens.empty()) text += " packed " + to_string(c.cu_seqlens);
  return text;
}

AttentionData::AttentionData(const AttentionCase& c) {
  oracle.q = round_to(random_normal(c.q_shape(), c.seed), c.type);
  oracle.k = round_to(random_normal(c.k_shape(), c.seed + 1), c.type);
  oracle.v = round_to(random_normal(c.v_shape(), c.seed + 2), c.type);
  oracle.scale = round_to(c.scale, kFp32);
  oracle.cu_seqlens = c.cu_seqlens;
  d_o = round_to(random_normal(c.o_shape(), c.seed + 3), c.type);
  if (c.dlse) dlse = round_to(random_normal(c.lse_shape(), c.seed + 4), kFp32);
  if (c.has(HAX_PATTERN_LSH)) {
    key_order = Array({c.batch, c.k_heads, c.length});
    begin = Array(c.lse_shape());
    end = Array(c.lse_shape());
  }
  if (c.has(HAX_PATTERN_KEY_SELECTION)) eviction = Array({c.batch, c.k_heads, c.length});

  const auto sequences = sequences_of(oracle.q, c.cu_seqlens);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const Sequence& seq = sequences[s];
    const int64_t row = c.cu_seqlens.empty() ? static_cast<int64_t>(s) : 0;
    for (int64_t h = 0; h < c.q_heads; ++h) {
      const int64_t head = h / (c.q_heads / c.k_heads);
      const int64_t stream = static_cast<int64_t>(s) * c.q_heads;
      Selection selection(seq.length);
      if (c.has(HAX_PATTERN_FULL)) selection.unite(select_full(seq.length));
      if (c.has(HAX_PATTERN_SLIDING_WINDOW)) {
        selection.unite(select_sliding_window(seq.length, c.window));
      }
      if (c.has(HAX_PATTERN_SINK)) selection.unite(select_sink(seq.length, c.sink));
      if (c.has(HAX_PATTERN_DILATED)) selection.unite(select_dilated(seq.length, c.dilation));
      if (c.has(HAX_PATTERN_LSH)) {
        const auto codes_q = random_codes(c, stream + h, 0, seq.length);
        const auto codes_k = random_codes(c, stream + head, 1, seq.length);
        make_lsh_head(c, codes_k, seq, row, head, key_order);
        make_lsh_ranges(c, codes_q, codes_k, seq, row, h, begin, end);
        selection.unite(select_lsh(codes_q, codes_k, c.lsh_budget));
      }
      if (c.has(HAX_PATTERN_KEY_SELECTION)) {
        const auto evicted = make_eviction(c, stream + head, seq, row, head, eviction);
        selection.unite(select_by_eviction(evicted));
      }
      oracle.selections.push_back(selection);
    }
  }
}

PatternArguments::PatternArguments(const AttentionCase& c, const AttentionData& data)
    : key_order(Argument::input(data.key_order, kInt32, c.layout)),
      begin(Argument::input(data.begin, kInt32, c.layout)),
      end(Argument::input(data.end, kInt32, c.layout)),
      eviction(Argument::input(data.eviction, kInt32, c.layout)) {
  pattern.struct_size = sizeof(pattern);
  pattern.patterns = c.patterns;
  pattern.window = c.has(HAX_PATTERN_SLIDING_WINDOW) ? c.window : 0;
  pattern.sink = c.has(HAX_PATTERN_SINK) ? c.sink : 0;
  pattern.dilation = c.has(HAX_PATTERN_DILATED) ? c.dilation : 0;
  pattern.key_order = key_order.arg();
  pattern.begin = begin.arg();
  pattern.end = end.arg();
  pattern.eviction = eviction.arg();
}

AttentionOutputs run_forward(const AttentionCase& c, const AttentionData& data,
                             const hax_context* context) {
  const PatternArguments pattern(c, data);
  const Argument q = Argument::input(data.oracle.q, c.type, c.layout);
  const Argument k = Argument::input(data.oracle.k, c.type, c.layout);
  const Argument v = Argument::input(data.oracle.v, c.type, c.layout);
  const Argument cu_seqlens =
      c.cu_seqlens.empty() ? Argument() : Argument::indices(c.cu_seqlens, c.cu_type);
  AttentionOutputs out{Argument::output(c.o_shape(), c.type, c.layout),
                       Argument::output(c.lse_shape(), kFp32, c.layout)};
  hax_sparse_attention_forward_args args = {};
  args.q = q.arg();
  args.k = k.arg();
  args.v = v.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.o = out.o.arg();
  args.lse = out.lse.arg();
  args.pattern = &pattern.pattern;
  args.scale = static_cast<float>(c.scale);
  EXPECT_EQ(
      run(hax_sparse_attention_forward_workspace, hax_sparse_attention_forward, context, args),
      HAX_SUCCESS)
      << hax_last_error();
  EXPECT_TRUE(out.o.sentinels_intact());
  EXPECT_TRUE(out.lse.sentinels_intact());
  EXPECT_TRUE(q.untouched() && k.untouched() && v.untouched());
  return out;
}

AttentionGradients run_backward(const AttentionCase& c, const AttentionData& data,
                                const AttentionOutputs& forward, const hax_context* context,
                                int wanted) {
  const PatternArguments pattern(c, data);
  const Argument q = Argument::input(data.oracle.q, c.type, c.layout);
  const Argument k = Argument::input(data.oracle.k, c.type, c.layout);
  const Argument v = Argument::input(data.oracle.v, c.type, c.layout);
  const Argument d_o = Argument::input(data.d_o, c.type, c.layout);
  const Argument dlse = Argument::input(data.dlse, kFp32, c.layout);
  const Argument cu_seqlens =
      c.cu_seqlens.empty() ? Argument() : Argument::indices(c.cu_seqlens, c.cu_type);
  const auto output = [&](int bit, const std::vector<int64_t>& shape) {
    return wanted & bit ? Argument::output(shape, c.type, c.layout) : Argument();
  };
  AttentionGradients out{output(1, c.q_shape()), output(2, c.k_shape()), output(4, c.v_shape())};
  hax_sparse_attention_backward_args args = {};
  args.q = q.arg();
  args.k = k.arg();
  args.v = v.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.o = forward.o.arg();
  args.lse = forward.lse.arg();
  args.d_o = d_o.arg();
  args.dlse = dlse.arg();
  args.dq = out.dq.arg();
  args.dk = out.dk.arg();
  args.dv = out.dv.arg();
  args.pattern = &pattern.pattern;
  args.scale = static_cast<float>(c.scale);
  args.deterministic = 1;
  EXPECT_EQ(
      run(hax_sparse_attention_backward_workspace, hax_sparse_attention_backward, context, args),
      HAX_SUCCESS)
      << hax_last_error();
  for (const Argument* argument : {&out.dq, &out.dk, &out.dv}) {
    EXPECT_TRUE(argument->sentinels_intact());
  }
  return out;
}

void expect_matches(const AttentionCase& c, const hax_context* context) {
  SCOPED_TRACE(describe(c));
  const AttentionData data(c);
  const double tolerance = forward_tolerance(c.type);
  const AttentionOutputs got = run_forward(c, data, context);
  const AttentionResult want = oracle_attention(data.oracle);
  EXPECT_TRUE(expect_close("o", got.o.array(), want.o, tolerance));
  EXPECT_TRUE(expect_close("lse", got.lse.array(), want.lse, 1e-5));

  const AttentionGradients gradients = run_backward(c, data, got, context);
  const AttentionGrads expected = oracle_attention_backward(data.oracle, data.d_o, data.dlse);
  EXPECT_TRUE(expect_close("dq", gradients.dq.array(), expected.dq, 2 * tolerance));
  EXPECT_TRUE(expect_close("dk", gradients.dk.array(), expected.dk, 2 * tolerance));
  EXPECT_TRUE(expect_close("dv", gradients.dv.array(), expected.dv, 2 * tolerance));
}

}  // namespace hax_test
