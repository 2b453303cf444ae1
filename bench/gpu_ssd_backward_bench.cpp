// ssd's backward on a GPU, bf16 activations.
#ifdef HAX_WITH_CUDA
#include "gpu_bench.hpp"

namespace gpu_bench {
namespace {

constexpr hax_data_type kT = HAX_BF16;
constexpr hax_data_type kFp32 = HAX_FP32;

struct SsdShape {
  int64_t batch, length, heads, width, states;
};

std::string describe(const SsdShape& s) {
  return "/B" + std::to_string(s.batch) + "_L" + std::to_string(s.length) + "_H" +
         std::to_string(s.heads) + "_P" + std::to_string(s.width) + "_N" +
         std::to_string(s.states) + "_G1";
}

void add_ssd_backward(const SsdShape& s) {
  add("cuda/ssd_backward" + describe(s), [s] {
    using Args = hax_ssd_backward_args;
    auto call = std::make_unique<CallOf<Args>>(hax_ssd_backward_workspace, hax_ssd_backward);
    call->tensor(&Args::x, {s.batch, s.length, s.heads, s.width}, kT);
    call->tensor(&Args::dt, {s.batch, s.length, s.heads}, kT);
    call->tensor(&Args::A, {s.heads}, kFp32, -2.0, -0.1);
    call->tensor(&Args::B, {s.batch, s.length, 1, s.states}, kT);
    call->tensor(&Args::C, {s.batch, s.length, 1, s.states}, kT);
    call->tensor(&Args::D, {s.heads}, kFp32);
    call->tensor(&Args::dt_bias, {s.heads}, kFp32, -4.0, -2.0);
    call->tensor(&Args::dy, {s.batch, s.length, s.heads, s.width}, kT);
    call->tensor(&Args::dx, {s.batch, s.length, s.heads, s.width}, kT);
    call->tensor(&Args::ddt, {s.batch, s.length, s.heads}, kT);
    call->tensor(&Args::dA, {s.heads}, kFp32);
    call->tensor(&Args::dB, {s.batch, s.length, 1, s.states}, kT);
    call->tensor(&Args::dC, {s.batch, s.length, 1, s.states}, kT);
    call->tensor(&Args::dD, {s.heads}, kFp32);
    call->tensor(&Args::ddt_bias, {s.heads}, kFp32);
    return call;
  });
}

const bool registered = [] {
  for (const SsdShape& s : {SsdShape{8, 4096, 80, 64, 128}, SsdShape{1, 131072, 80, 64, 128},
                            SsdShape{64, 1057, 8, 16, 32}, SsdShape{256, 4096, 8, 64, 128},
                            SsdShape{1, 1048576, 8, 64, 128}}) {
    add_ssd_backward(s);
  }
  return true;
}();

}  // namespace
}  // namespace gpu_bench
#endif
