// ssd on a GPU, bf16 activations.
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
         std::to_string(s.heads) + "_P" + std::to_string(s.width) + "_N" + std::to_string(s.states);
}

template <class Args>
void add_inputs(CallOf<Args>& call, const SsdShape& s) {
  call.tensor(&Args::x, {s.batch, s.length, s.heads, s.width}, kT);
  call.tensor(&Args::dt, {s.batch, s.length, s.heads}, kT);
  call.tensor(&Args::A, {s.heads}, kFp32, -2.0, -0.1);
  call.tensor(&Args::B, {s.batch, s.length, 1, s.states}, kT);
  call.tensor(&Args::C, {s.batch, s.length, 1, s.states}, kT);
  call.tensor(&Args::D, {s.heads}, kFp32);
  call.tensor(&Args::dt_bias, {s.heads}, kFp32, -4.0, -2.0);
}

void add_forward(const SsdShape& s) {
  add("cuda/ssd_forward" + describe(s), [s] {
    using Args = hax_ssd_forward_args;
    auto call = std::make_unique<CallOf<Args>>(hax_ssd_forward_workspace, hax_ssd_forward);
    add_inputs(*call, s);
    call->tensor(&Args::y, {s.batch, s.length, s.heads, s.width}, kT);
    return call;
  });
}

// One token a sequence; `length` is not used.
void add_step(const SsdShape& s, hax_data_type state_type) {
  add("cuda/ssd_step" + describe(s) + (state_type.bits == 32 ? "_fp32" : "_bf16"), [s, state_type] {
    using Args = hax_ssd_step_args;
    auto call = std::make_unique<CallOf<Args>>(hax_ssd_step_workspace, hax_ssd_step);
    add_inputs(*call, s);
    call->tensor(&Args::state, {s.batch, s.heads, s.width, s.states}, state_type, 0.0, 0.0, 2);
    call->tensor(&Args::y, {s.batch, s.length, s.heads, s.width}, kT);
    return call;
  });
}

const bool registered = [] {
  for (const SsdShape& s : {SsdShape{8, 4096, 80, 64, 128}, SsdShape{1, 131072, 80, 64, 128},
                            SsdShape{64, 1057, 8, 16, 32}}) {
    add_forward(s);
  }
  for (const SsdShape& s : {SsdShape{64, 1, 80, 64, 128}, SsdShape{256, 1, 80, 64, 128}}) {
    add_step(s, kFp32);
    add_step(s, kT);
  }
  return true;
}();

}  // namespace
}  // namespace gpu_bench
#endif
