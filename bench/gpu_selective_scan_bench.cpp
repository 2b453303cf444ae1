// selective_scan on a GPU beyond the shapes of training: as many tokens in ever longer sequences, and steps.
#ifdef HAX_WITH_CUDA
#include "gpu_bench.hpp"

namespace gpu_bench {
namespace {

constexpr hax_data_type kT = HAX_BF16;
constexpr hax_data_type kFp32 = HAX_FP32;

struct ScanShape {
  int64_t batch, length, channels, states;
};

template <class Args>
std::unique_ptr<CallOf<Args>> scan_call(typename CallOf<Args>::Query query,
                                        typename CallOf<Args>::Function function,
                                        const ScanShape& s) {
  auto call = std::make_unique<CallOf<Args>>(query, function);
  call->tensor(&Args::u, {s.batch, s.length, s.channels}, kT);
  call->tensor(&Args::delta, {s.batch, s.length, s.channels}, kT);
  call->tensor(&Args::A, {s.channels, s.states}, kFp32, -2.0, -0.1);
  call->tensor(&Args::B, {s.batch, s.length, 1, s.states}, kT);
  call->tensor(&Args::C, {s.batch, s.length, 1, s.states}, kT);
  call->tensor(&Args::D, {s.channels}, kFp32);
  call->tensor(&Args::z, {s.batch, s.length, s.channels}, kT);
  call->tensor(&Args::delta_bias, {s.channels}, kFp32, -4.0, -2.0);
  call->tensor(&Args::y, {s.batch, s.length, s.channels}, kT);
  call->args.delta_softplus = 1;
  return call;
}

void add_row(const char* operation, const ScanShape& s, const MakeCall& make) {
  const double exps =
      static_cast<double>(s.batch * s.length) * static_cast<double>(s.channels * s.states);
  add("cuda/selective_scan_" + std::string(operation) + "/B" + std::to_string(s.batch) + "_L" +
          std::to_string(s.length) + "_D" + std::to_string(s.channels) + "_N" +
          std::to_string(s.states),
      make, exps);
}

void add_forward(const ScanShape& s) {
  add_row("forward", s, [s] {
    return scan_call<hax_selective_scan_forward_args>(hax_selective_scan_forward_workspace,
                                                      hax_selective_scan_forward, s);
  });
}

// s.length tokens for each sequence; the states, in fp32, are read and written.
void add_step(const ScanShape& s) {
  add_row("step", s, [s] {
    using Args = hax_selective_scan_step_args;
    auto call = scan_call<Args>(hax_selective_scan_step_workspace, hax_selective_scan_step, s);
    call->tensor(&Args::state, {s.batch, s.channels, s.states}, kFp32, 0.0, 0.0, 2);
    return call;
  });
}

const bool registered = [] {
  constexpr int64_t kTokens = 1048576;
  for (const int64_t length : {4096, 65536, 1048576}) {
    add_forward({kTokens / length, length, 4096, 16});
  }
  for (const int64_t channels : {2048, 512}) add_forward({1, kTokens, channels, 16});
  for (const int64_t tokens : {1, 4}) add_step({64, tokens, 5120, 16});
  return true;
}();

}  // namespace
}  // namespace gpu_bench
#endif
