#include "oracle_math.hpp"
#include "oracle_scan.hpp"

namespace hax_test {
namespace {

struct Problem {
  explicit Problem(const SsdArgs& a)
      : args(a),
        sequences(sequences_of(a.x, a.cu_seqlens)),
        x(flat_tokens(a.x)),
        dt(flat_tokens(a.dt)),
        B(flat_tokens(a.B)),
        C(flat_tokens(a.C)),
        z(flat_tokens(a.z)),
        heads(a.x.size(2)),
        width(a.x.size(3)),
        states(a.B.size(3)),
        heads_per_group(heads / a.B.size(2)) {}

  int64_t count() const { return static_cast<int64_t>(sequences.size()); }
  int64_t group(int64_t h) const { return h / heads_per_group; }

  double biased_dt(int64_t row, int64_t h) const {
    return dt.at(row, h) + (args.dt_bias.present() ? args.dt_bias.at(h) : 0.0);
  }
  double unclamped_step(int64_t row, int64_t h) const {
    const double value = biased_dt(row, h);
    return args.dt_softplus ? softplus(value) : value;
  }
  double step(int64_t row, int64_t h) const {
    return std::min(std::max(unclamped_step(row, h), args.dt_min), args.dt_max);
  }
  // d step / d dt.
  double step_derivative(int64_t row, int64_t h) const {
    const double value = unclamped_step(row, h);
    if (value < args.dt_min || value > args.dt_max) return 0.0;
    return args.dt_softplus ? sigmoid(biased_dt(row, h)) : 1.0;
  }
  double skip(int64_t h, int64_t p) const {
    if (!args.D.present()) return 0.0;
    return args.D.rank() == 1 ? args.D.at(h) : args.D.at(h, p);
  }

  // States before the first and after every token, of one (head, channel): (length + 1, N).
  Array trajectory(int64_t s, int64_t h, int64_t p) const {
    const Sequence& seq = sequences[static_cast<size_t>(s)];
    Array state({seq.length + 1, states});
    for (int64_t n = 0; n < states; ++n) {
      if (args.initial_state.present()) state.at(0, n) = args.initial_state.at(s, h, p, n);
    }
    for (int64_t t = 0; t < seq.length; ++t) {
      const int64_t row = seq.first_row + t;
      const double step_t = step(row, h), decay = std::exp(step_t * args.A.at(h));
      for (int64_t n = 0; n < states; ++n) {
        state.at(t + 1, n) =
            decay * state.at(t, n) + step_t * x.at(row, h, p) * B.at(row, group(h), n);
      }
    }
    return state;
  }

  double ungated(const Array& state, int64_t t, int64_t row, int64_t h, int64_t p) const {
    double y = skip(h, p) * x.at(row, h, p);
    for (int64_t n = 0; n < states; ++n) y += C.at(row, group(h), n) * state.at(t + 1, n);
    return y;
  }

  const SsdArgs& args;
  std::vector<Sequence> sequences;
  Array x, dt, B, C, z;
  int64_t heads, width, states, heads_per_group;
};

}  // namespace

ScanResult oracle_ssd(const SsdArgs& args) {
  const Problem q(args);
  ScanResult result;
  Array y = zeros_like(q.x);
  result.final_state = zeros({q.count(), q.heads, q.width, q.states});
  const int64_t every = args.checkpoint_every;
  if (every > 0) {
    int64_t checkpoint_count = 0;
    for (const Sequence& seq : q.sequences) checkpoint_count += seq.length / every;
    result.checkpoints = zeros({checkpoint_count, q.heads, q.width, q.states});
  }
  int64_t first_checkpoint = 0;
  for (int64_t s = 0; s < q.count(); ++s) {
    const Sequence& seq = q.sequences[static_cast<size_t>(s)];
    for (int64_t h = 0; h < q.heads; ++h) {
      for (int64_t p = 0; p < q.width; ++p) {
        const Array state = q.trajectory(s, h, p);
        for (int64_t t = 0; t < seq.length; ++t) {
          const int64_t row = seq.first_row + t;
          const double gate = q.z.present() ? silu(q.z.at(row, h, p)) : 1.0;
          y.at(row, h, p) = q.ungated(state, t, row, h, p) * gate;
        }
        for (int64_t n = 0; n < q.states; ++n) {
          result.final_state.at(s, h, p, n) = state.at(seq.length, n);
          if (every <= 0) continue;
          for (int64_t c = 0; c < seq.length / every; ++c) {
            result.checkpoints.at(first_checkpoint + c, h, p, n) = state.at((c + 1) * every, n);
          }
        }
      }
    }
    if (every > 0) first_checkpoint += seq.length / every;
  }
  result.y = y.reshape(args.x.shape);
  return result;
}

SsdGrads oracle_ssd_backward(const SsdArgs& args, const Array& dy, const Array& dfinal_state) {
  const Problem q(args);
  const Array dy_rows = flat_tokens(dy);
  Array dx = zeros_like(q.x), ddt = zeros_like(q.dt);
  Array dB = zeros_like(q.B), dC = zeros_like(q.C), dz = q.z;
  SsdGrads grads;
  grads.dA = zeros_like(args.A);
  grads.dD = args.D.present() ? zeros_like(args.D) : zeros({q.heads});
  grads.ddt_bias = zeros({q.heads});
  grads.dinitial_state = zeros({q.count(), q.heads, q.width, q.states});

  for (int64_t s = 0; s < q.count(); ++s) {
    const Sequence& seq = q.sequences[static_cast<size_t>(s)];
    for (int64_t h = 0; h < q.heads; ++h) {
      const int64_t g = q.group(h);
      const double A = args.A.at(h);
      for (int64_t p = 0; p < q.width; ++p) {
        const Array state = q.trajectory(s, h, p);
        std::vector<double> dstate(static_cast<size_t>(q.states), 0.0);
        if (dfinal_state.present()) {
          for (int64_t n = 0; n < q.states; ++n) {
            dstate[static_cast<size_t>(n)] = dfinal_state.at(s, h, p, n);
          }
        }
        for (int64_t t = seq.length - 1; t >= 0; --t) {
          const int64_t row = seq.first_row + t;
          const double x = q.x.at(row, h, p), step = q.step(row, h), decay = std::exp(step * A);
          double dungated = dy_rows.at(row, h, p);
          if (q.z.present()) {
            const double z = q.z.at(row, h, p);
            dz.at(row, h, p) = dungated * q.ungated(state, t, row, h, p) * silu_derivative(z);
            dungated *= silu(z);
          }
          (grads.dD.rank() == 1 ? grads.dD.at(h) : grads.dD.at(h, p)) += dungated * x;
          dx.at(row, h, p) += dungated * q.skip(h, p);
          double dstep = 0.0;
          for (int64_t n = 0; n < q.states; ++n) {
            double& carried = dstate[static_cast<size_t>(n)];
            const double B = q.B.at(row, g, n), before = state.at(t, n);
            carried += dungated * q.C.at(row, g, n);
            dC.at(row, g, n) += dungated * state.at(t + 1, n);
            dB.at(row, g, n) += carried * step * x;
            dx.at(row, h, p) += carried * step * B;
            grads.dA.at(h) += carried * decay * step * before;
            dstep += carried * (decay * A * before + x * B);
            carried *= decay;
          }
          const double draw = dstep * q.step_derivative(row, h);
          ddt.at(row, h) += draw;
          grads.ddt_bias.at(h) += draw;
        }
        for (int64_t n = 0; n < q.states; ++n) {
          grads.dinitial_state.at(s, h, p, n) = dstate[static_cast<size_t>(n)];
        }
      }
    }
  }
  grads.dx = dx.reshape(args.x.shape);
  grads.ddt = ddt.reshape(args.dt.shape);
  grads.dB = dB.reshape(args.B.shape);
  grads.dC = dC.reshape(args.C.shape);
  if (q.z.present()) grads.dz = dz.reshape(args.z.shape);
  return grads;
}

}  // namespace hax_test
