// causal_conv1d and selective_scan on a GPU, bf16 activations.
#ifdef HAX_WITH_CUDA
#include "gpu_bench.hpp"

namespace gpu_bench {
namespace {

constexpr hax_data_type kT = HAX_BF16;
constexpr hax_data_type kFp32 = HAX_FP32;

struct ConvShape {
  int64_t batch, length, channels, width;
};

std::string describe(const ConvShape& s) {
  return "/B" + std::to_string(s.batch) + "_L" + std::to_string(s.length) + "_D" +
         std::to_string(s.channels) + "_W" + std::to_string(s.width);
}

void add_conv(const ConvShape& s) {
  const std::vector<int64_t> tokens{s.batch, s.length, s.channels};
  const double elements = static_cast<double>(s.batch * s.length * s.channels);
  const double products = 2.0 * elements * static_cast<double>(s.width);
  add(
      "cuda/causal_conv1d_forward" + describe(s),
      [s, tokens] {
        using Args = hax_causal_conv1d_forward_args;
        auto call = std::make_unique<CallOf<Args>>(hax_causal_conv1d_forward_workspace,
                                                   hax_causal_conv1d_forward);
        call->tensor(&Args::x, tokens, kT);
        call->tensor(&Args::weight, {s.channels, s.width}, kFp32);
        call->tensor(&Args::bias, {s.channels}, kFp32);
        call->tensor(&Args::y, tokens, kT);
        call->args.activation = HAX_ACTIVATION_SILU;
        return call;
      },
      elements, products, Unit::fp32);
  add(
      "cuda/causal_conv1d_backward" + describe(s),
      [s, tokens] {
        using Args = hax_causal_conv1d_backward_args;
        auto call = std::make_unique<CallOf<Args>>(hax_causal_conv1d_backward_workspace,
                                                   hax_causal_conv1d_backward);
        call->tensor(&Args::x, tokens, kT);
        call->tensor(&Args::weight, {s.channels, s.width}, kFp32);
        call->tensor(&Args::bias, {s.channels}, kFp32);
        call->tensor(&Args::dy, tokens, kT);
        call->tensor(&Args::dx, tokens, kT);
        call->tensor(&Args::dweight, {s.channels, s.width}, kFp32);
        call->tensor(&Args::dbias, {s.channels}, kFp32);
        call->args.activation = HAX_ACTIVATION_SILU;
        return call;
      },
      elements, 3.0 * products, Unit::fp32);
}

struct ScanShape {
  int64_t batch, length, channels, states;
};

std::string describe(const ScanShape& s) {
  return "/B" + std::to_string(s.batch) + "_L" + std::to_string(s.length) + "_D" +
         std::to_string(s.channels) + "_N" + std::to_string(s.states);
}

template <class Args>
void add_scan_inputs(CallOf<Args>& call, const ScanShape& s) {
  call.tensor(&Args::u, {s.batch, s.length, s.channels}, kT);
  call.tensor(&Args::delta, {s.batch, s.length, s.channels}, kT);
  call.tensor(&Args::A, {s.channels, s.states}, kFp32, -2.0, -0.1);
  call.tensor(&Args::B, {s.batch, s.length, 1, s.states}, kT);
  call.tensor(&Args::C, {s.batch, s.length, 1, s.states}, kT);
  call.tensor(&Args::D, {s.channels}, kFp32);
  call.tensor(&Args::z, {s.batch, s.length, s.channels}, kT);
  call.tensor(&Args::delta_bias, {s.channels}, kFp32, -4.0, -2.0);
  call.args.delta_softplus = 1;
}

void add_scan(const ScanShape& s) {
  const double exps = static_cast<double>(s.batch) * static_cast<double>(s.length) *
                      static_cast<double>(s.channels * s.states);
  const double flops = 6.0 * exps;  // forward; backward needs three times as many
  add(
      "cuda/selective_scan_forward" + describe(s),
      [s] {
        using Args = hax_selective_scan_forward_args;
        auto call = std::make_unique<CallOf<Args>>(hax_selective_scan_forward_workspace,
                                                   hax_selective_scan_forward);
        add_scan_inputs(*call, s);
        call->tensor(&Args::y, {s.batch, s.length, s.channels}, kT);
        return call;
      },
      exps, flops, Unit::fp32);
  add(
      "cuda/selective_scan_backward" + describe(s),
      [s] {
        using Args = hax_selective_scan_backward_args;
        auto call = std::make_unique<CallOf<Args>>(hax_selective_scan_backward_workspace,
                                                   hax_selective_scan_backward);
        add_scan_inputs(*call, s);
        call->tensor(&Args::dy, {s.batch, s.length, s.channels}, kT);
        call->tensor(&Args::du, {s.batch, s.length, s.channels}, kT);
        call->tensor(&Args::ddelta, {s.batch, s.length, s.channels}, kT);
        call->tensor(&Args::dA, {s.channels, s.states}, kFp32);
        call->tensor(&Args::dB, {s.batch, s.length, 1, s.states}, kT);
        call->tensor(&Args::dC, {s.batch, s.length, 1, s.states}, kT);
        call->tensor(&Args::dD, {s.channels}, kFp32);
        call->tensor(&Args::dz, {s.batch, s.length, s.channels}, kT);
        call->tensor(&Args::ddelta_bias, {s.channels}, kFp32);
        return call;
      },
      exps, 3.0 * flops, Unit::fp32);
}

// One token for every sequence.
void add_conv_step(const ConvShape& s) {
  add(
      "cuda/causal_conv1d_step" + describe(s),
      [s] {
        using Args = hax_causal_conv1d_step_args;
        auto call = std::make_unique<CallOf<Args>>(hax_causal_conv1d_step_workspace,
                                                   hax_causal_conv1d_step);
        call->tensor(&Args::x, {s.batch, s.length, s.channels}, kT);
        call->tensor(&Args::weight, {s.channels, s.width}, kFp32);
        call->tensor(&Args::bias, {s.channels}, kFp32);
        call->tensor(&Args::state, {s.batch, s.width - 1, s.channels}, kT, 0.0, 0.0, 2);
        call->tensor(&Args::y, {s.batch, s.length, s.channels}, kT);
        call->args.activation = HAX_ACTIVATION_SILU;
        return call;
      },
      static_cast<double>(s.batch * s.length * s.channels));
}

const bool registered = [] {
  for (const ConvShape& s : {ConvShape{8, 4096, 5376, 4}, ConvShape{64, 1057, 128, 4},
                             ConvShape{1, 131072, 5376, 4}, ConvShape{8, 4096, 5376, 5}}) {
    add_conv(s);
  }
  add_conv_step({64, 1, 5376, 4});
  for (const ScanShape& s : {ScanShape{8, 4096, 4096, 16}, ScanShape{1, 131072, 4096, 16},
                             ScanShape{64, 1057, 128, 16}}) {
    add_scan(s);
  }
  return true;
}();

}  // namespace
}  // namespace gpu_bench
#endif
