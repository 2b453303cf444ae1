// Selective scan and ssd, forward and backward on the CPU. Items are state updates: tokens times the
// numbers of a state.
#include "operator_bench.hpp"

namespace {

using hax_bench::measure;
using hax_bench::Values;

// Arguments: L, D, N, threads.
struct SelectiveScanCase {
  explicit SelectiveScanCase(const benchmark::State& state)
      : L(state.range(0)), D(state.range(1)), N(state.range(2)) {}

  template <class Args>
  void bind(Args& args) const {
    args.u = u;
    args.delta = delta;
    args.A = A;
    args.B = B;
    args.C = C;
    args.D = skip;
    args.z = z;
    args.delta_bias = bias;
    args.delta_softplus = 1;
  }

  int64_t L, D, N;
  Values u{{1, L, D}, -1, 1}, delta{{1, L, D}, -4, 0}, A{{D, N}, -2, -0.1f};
  Values B{{1, L, 1, N}, -1, 1}, C{{1, L, 1, N}, -1, 1};
  Values skip{{D}, -1, 1}, z{{1, L, D}, -1, 1}, bias{{D}, -1, 1}, y{{1, L, D}, 0, 0};
};

void selective_scan_forward(benchmark::State& state) {
  const SelectiveScanCase c(state);
  hax_selective_scan_forward_args args = {};
  c.bind(args);
  args.y = c.y;
  measure(state, static_cast<int>(state.range(3)), c.L * c.D * c.N, args,
          hax_selective_scan_forward_workspace, hax_selective_scan_forward);
}

void selective_scan_backward(benchmark::State& state) {
  const SelectiveScanCase c(state);
  const Values du({1, c.L, c.D}, 0, 0), ddelta({1, c.L, c.D}, 0, 0), dz({1, c.L, c.D}, 0, 0);
  const Values dB({1, c.L, 1, c.N}, 0, 0), dC({1, c.L, 1, c.N}, 0, 0);
  const Values dA({c.D, c.N}, 0, 0), dskip({c.D}, 0, 0), dbias({c.D}, 0, 0);
  hax_selective_scan_backward_args args = {};
  c.bind(args);
  args.dy = c.u;
  args.du = du;
  args.ddelta = ddelta;
  args.dA = dA;
  args.dB = dB;
  args.dC = dC;
  args.dD = dskip;
  args.dz = dz;
  args.ddelta_bias = dbias;
  measure(state, static_cast<int>(state.range(3)), c.L * c.D * c.N, args,
          hax_selective_scan_backward_workspace, hax_selective_scan_backward);
}

// Arguments: L, H, P, N, threads.
struct SsdCase {
  explicit SsdCase(const benchmark::State& state)
      : L(state.range(0)), H(state.range(1)), P(state.range(2)), N(state.range(3)) {}

  template <class Args>
  void bind(Args& args) const {
    args.x = x;
    args.dt = dt;
    args.A = A;
    args.B = B;
    args.C = C;
    args.D = skip;
    args.dt_bias = bias;
  }

  int64_t L, H, P, N;
  Values x{{1, L, H, P}, -1, 1}, dt{{1, L, H}, -4, 0}, A{{H}, -2, -0.1f};
  Values B{{1, L, 1, N}, -1, 1}, C{{1, L, 1, N}, -1, 1};
  Values skip{{H}, -1, 1}, bias{{H}, -1, 1}, y{{1, L, H, P}, 0, 0};
};

void ssd_forward(benchmark::State& state) {
  const SsdCase c(state);
  hax_ssd_forward_args args = {};
  c.bind(args);
  args.y = c.y;
  measure(state, static_cast<int>(state.range(4)), c.L * c.H * c.P * c.N, args,
          hax_ssd_forward_workspace, hax_ssd_forward);
}

void ssd_backward(benchmark::State& state) {
  const SsdCase c(state);
  const Values dx({1, c.L, c.H, c.P}, 0, 0), ddt({1, c.L, c.H}, 0, 0);
  const Values dB({1, c.L, 1, c.N}, 0, 0), dC({1, c.L, 1, c.N}, 0, 0);
  const Values dA({c.H}, 0, 0), dskip({c.H}, 0, 0), dbias({c.H}, 0, 0);
  hax_ssd_backward_args args = {};
  c.bind(args);
  args.dy = c.x;
  args.dx = dx;
  args.ddt = ddt;
  args.dA = dA;
  args.dB = dB;
  args.dC = dC;
  args.dD = dskip;
  args.ddt_bias = dbias;
  measure(state, static_cast<int>(state.range(4)), c.L * c.H * c.P * c.N, args,
          hax_ssd_backward_workspace, hax_ssd_backward);
}

void selective_scan_cases(benchmark::internal::Benchmark* b) {
  b->ArgNames({"L", "D", "N", "threads"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const int64_t threads : {1, 2}) {
    b->Args({2048, 2048, 16, threads});
    b->Args({2048, 128, 16, threads});
    b->Args({512, 512, 128, threads});
  }
}

void ssd_cases(benchmark::internal::Benchmark* b) {
  b->ArgNames({"L", "H", "P", "N", "threads"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const int64_t threads : {1, 2}) {
    b->Args({2048, 24, 64, 128, threads});
    b->Args({2048, 16, 8, 16, threads});
  }
}

BENCHMARK(selective_scan_forward)->Apply(selective_scan_cases);
BENCHMARK(selective_scan_backward)->Apply(selective_scan_cases);
BENCHMARK(ssd_forward)->Apply(ssd_cases);
BENCHMARK(ssd_backward)->Apply(ssd_cases);

}  // namespace
