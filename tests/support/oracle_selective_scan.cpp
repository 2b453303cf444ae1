#include "oracle_math.hpp"
#include "oracle_scan.hpp"

namespace hax_test {
namespace {

// The inputs with the token axes flattened, and what every loop needs of the shapes.
struct Problem {
  explicit Problem(const SelectiveScanArgs& a)
      : args(a),
        sequences(sequences_of(a.u, a.cu_seqlens)),
        u(flat_tokens(a.u)),
        delta(flat_tokens(a.delta)),
        B(flat_tokens(a.B)),
        C(flat_tokens(a.C)),
        z(flat_tokens(a.z)),
        channels(a.A.size(0)),
        states(a.A.size(1)),
        channels_per_group(channels / a.B.size(2)) {}

  int64_t count() const { return static_cast<int64_t>(sequences.size()); }
  int64_t group(int64_t d) const { return d / channels_per_group; }

  double biased_delta(int64_t row, int64_t d) const {
    return delta.at(row, d) + (args.delta_bias.present() ? args.delta_bias.at(d) : 0.0);
  }
  double dt(int64_t row, int64_t d) const {
    const double x = biased_delta(row, d);
    return args.delta_softplus ? softplus(x) : x;
  }

  // h_0 ... h_L of one channel of one sequence: (length + 1, N).
  Array trajectory(int64_t s, int64_t d) const {
    const Sequence& seq = sequences[static_cast<size_t>(s)];
    Array h({seq.length + 1, states});
    for (int64_t n = 0; n < states; ++n) {
      if (args.initial_state.present()) h.at(0, n) = args.initial_state.at(s, d, n);
      for (int64_t t = 0; t < seq.length; ++t) {
        const int64_t row = seq.first_row + t;
        const double step = dt(row, d);
        h.at(t + 1, n) = std::exp(step * args.A.at(d, n)) * h.at(t, n) +
                         step * B.at(row, group(d), n) * u.at(row, d);
      }
    }
    return h;
  }

  // y before the gate, at the token that led to state h_{t+1}.
  double ungated(const Array& h, int64_t t, int64_t row, int64_t d) const {
    double y = args.D.present() ? args.D.at(d) * u.at(row, d) : 0.0;
    for (int64_t n = 0; n < states; ++n) y += C.at(row, group(d), n) * h.at(t + 1, n);
    return y;
  }

  const SelectiveScanArgs& args;
  std::vector<Sequence> sequences;
  Array u, delta, B, C, z;
  int64_t channels, states, channels_per_group;
};

}  // namespace

ScanResult oracle_selective_scan(const SelectiveScanArgs& args) {
  const Problem p(args);
  ScanResult result;
  Array y = zeros_like(p.u);
  result.final_state = zeros({p.count(), p.channels, p.states});
  const int64_t every = args.checkpoint_every;
  int64_t checkpoint_count = 0;
  if (every > 0) {
    for (const Sequence& seq : p.sequences) checkpoint_count += seq.length / every;
    result.checkpoints = zeros({checkpoint_count, p.channels, p.states});
  }
  int64_t first_checkpoint = 0;
  for (int64_t s = 0; s < p.count(); ++s) {
    const Sequence& seq = p.sequences[static_cast<size_t>(s)];
    for (int64_t d = 0; d < p.channels; ++d) {
      const Array h = p.trajectory(s, d);
      for (int64_t t = 0; t < seq.length; ++t) {
        const int64_t row = seq.first_row + t;
        const double gate = p.z.present() ? silu(p.z.at(row, d)) : 1.0;
        y.at(row, d) = p.ungated(h, t, row, d) * gate;
      }
      for (int64_t n = 0; n < p.states; ++n) {
        result.final_state.at(s, d, n) = h.at(seq.length, n);
        if (every <= 0) continue;
        for (int64_t c = 0; c < seq.length / every; ++c) {
          result.checkpoints.at(first_checkpoint + c, d, n) = h.at((c + 1) * every, n);
        }
      }
    }
    if (every > 0) first_checkpoint += seq.length / every;
  }
  result.y = y.reshape(args.u.shape);
  return result;
}

SelectiveScanGrads oracle_selective_scan_backward(const SelectiveScanArgs& args, const Array& dy,
                                                  const Array& dfinal_state) {
  const Problem p(args);
  const Array dy_rows = flat_tokens(dy);
  Array du = zeros_like(p.u), ddelta = zeros_like(p.delta);
  Array dB = zeros_like(p.B), dC = zeros_like(p.C), dz = p.z;
  SelectiveScanGrads grads;
  grads.dA = zeros_like(args.A);
  grads.dD = zeros({p.channels});
  grads.ddelta_bias = zeros({p.channels});
  grads.dinitial_state = zeros({p.count(), p.channels, p.states});

  for (int64_t s = 0; s < p.count(); ++s) {
    const Sequence& seq = p.sequences[static_cast<size_t>(s)];
    for (int64_t d = 0; d < p.channels; ++d) {
      const Array h = p.trajectory(s, d);
      const int64_t g = p.group(d);
      std::vector<double> dh(static_cast<size_t>(p.states), 0.0);
      if (dfinal_state.present()) {
        for (int64_t n = 0; n < p.states; ++n) {
          dh[static_cast<size_t>(n)] = dfinal_state.at(s, d, n);
        }
      }
      for (int64_t t = seq.length - 1; t >= 0; --t) {
        const int64_t row = seq.first_row + t;
        const double u = p.u.at(row, d), step = p.dt(row, d);
        double dungated = dy_rows.at(row, d);
        if (p.z.present()) {
          const double z = p.z.at(row, d);
          dz.at(row, d) = dungated * p.ungated(h, t, row, d) * silu_derivative(z);
          dungated *= silu(z);
        }
        grads.dD.at(d) += dungated * u;
        if (args.D.present()) du.at(row, d) += dungated * args.D.at(d);
        double dstep = 0.0;
        for (int64_t n = 0; n < p.states; ++n) {
          double& carried = dh[static_cast<size_t>(n)];
          const double A = args.A.at(d, n), B = p.B.at(row, g, n);
          const double decay = std::exp(step * A);
          carried += dungated * p.C.at(row, g, n);
          dC.at(row, g, n) += dungated * h.at(t + 1, n);
          dB.at(row, g, n) += carried * step * u;
          du.at(row, d) += carried * step * B;
          grads.dA.at(d, n) += carried * decay * step * h.at(t, n);
          dstep += carried * (decay * A * h.at(t, n) + B * u);
          carried *= decay;
        }
        if (args.delta_softplus) dstep *= sigmoid(p.biased_delta(row, d));
        ddelta.at(row, d) = dstep;
        grads.ddelta_bias.at(d) += dstep;
      }
      for (int64_t n = 0; n < p.states; ++n) {
        grads.dinitial_state.at(s, d, n) = dh[static_cast<size_t>(n)];
      }
    }
  }
  grads.du = du.reshape(args.u.shape);
  grads.ddelta = ddelta.reshape(args.delta.shape);
  grads.dB = dB.reshape(args.B.shape);
  grads.dC = dC.reshape(args.C.shape);
  if (p.z.present()) grads.dz = dz.reshape(args.z.shape);
  return grads;
}

}  // namespace hax_test
