#include "oracle_math.hpp"
#include "oracle_scan.hpp"

namespace hax_test {
namespace {

// Token t of sequence s; the W-1 tokens before it come from the initial state. Gradients are
// scattered through the same map, so forward and backward cannot disagree on who reads what.
struct InputMap {
  int64_t width;

  bool in_state(int64_t t) const { return t < 0; }
  int64_t state_row(int64_t t) const { return width - 1 + t; }
};

double read_input(const Array& x, const Array& state, const InputMap& map, const Sequence& seq,
                  int64_t s, int64_t t, int64_t d) {
  if (!map.in_state(t)) return x.at(seq.first_row + t, d);
  return state.present() ? state.at(s, map.state_row(t), d) : 0.0;
}

double preactivation(const Conv1dArgs& args, const Array& x, const InputMap& map,
                     const Sequence& seq, int64_t s, int64_t t, int64_t d) {
  double sum = args.bias.present() ? args.bias.at(d) : 0.0;
  for (int64_t w = 0; w < map.width; ++w) {
    sum += args.weight.at(d, w) *
           read_input(x, args.initial_state, map, seq, s, t - (map.width - 1) + w, d);
  }
  return sum;
}

}  // namespace

Conv1dResult oracle_causal_conv1d(const Conv1dArgs& args) {
  const int64_t channels = args.weight.size(0);
  const InputMap map{args.weight.size(1)};
  const auto sequences = sequences_of(args.x, args.cu_seqlens);
  const auto count = static_cast<int64_t>(sequences.size());
  const Array x = flat_tokens(args.x);
  Array y = zeros_like(x);
  Array final_state({count, map.width - 1, channels});
  for (int64_t s = 0; s < count; ++s) {
    const Sequence& seq = sequences[static_cast<size_t>(s)];
    for (int64_t d = 0; d < channels; ++d) {
      for (int64_t t = 0; t < seq.length; ++t) {
        const double sum = preactivation(args, x, map, seq, s, t, d);
        y.at(seq.first_row + t, d) = args.silu ? silu(sum) : sum;
      }
      for (int64_t r = 0; r < map.width - 1; ++r) {
        final_state.at(s, r, d) =
            read_input(x, args.initial_state, map, seq, s, seq.length - (map.width - 1) + r, d);
      }
    }
  }
  return {y.reshape(args.x.shape), final_state};
}

Conv1dGrads oracle_causal_conv1d_backward(const Conv1dArgs& args, const Array& dy,
                                          const Array& dfinal_state) {
  const int64_t channels = args.weight.size(0);
  const InputMap map{args.weight.size(1)};
  const auto sequences = sequences_of(args.x, args.cu_seqlens);
  const auto count = static_cast<int64_t>(sequences.size());
  const Array x = flat_tokens(args.x), dy_rows = flat_tokens(dy);
  Array dx = zeros_like(x);
  Conv1dGrads grads;
  grads.dweight = zeros_like(args.weight);
  grads.dbias = zeros({channels});
  grads.dinitial_state = zeros({count, map.width - 1, channels});

  for (int64_t s = 0; s < count; ++s) {
    const Sequence& seq = sequences[static_cast<size_t>(s)];
    auto add_to_input = [&](int64_t t, int64_t d, double value) {
      if (map.in_state(t)) {
        grads.dinitial_state.at(s, map.state_row(t), d) += value;
      } else {
        dx.at(seq.first_row + t, d) += value;
      }
    };
    for (int64_t d = 0; d < channels; ++d) {
      for (int64_t t = 0; t < seq.length; ++t) {
        double dsum = dy_rows.at(seq.first_row + t, d);
        if (args.silu) dsum *= silu_derivative(preactivation(args, x, map, seq, s, t, d));
        grads.dbias.at(d) += dsum;
        for (int64_t w = 0; w < map.width; ++w) {
          const int64_t from = t - (map.width - 1) + w;
          grads.dweight.at(d, w) += dsum * read_input(x, args.initial_state, map, seq, s, from, d);
          add_to_input(from, d, dsum * args.weight.at(d, w));
        }
      }
      if (!dfinal_state.present()) continue;
      for (int64_t r = 0; r < map.width - 1; ++r) {
        add_to_input(seq.length - (map.width - 1) + r, d, dfinal_state.at(s, r, d));
      }
    }
  }
  grads.dx = dx.reshape(args.x.shape);
  return grads;
}

}  // namespace hax_test
