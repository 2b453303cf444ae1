#include "scan/ssd/ssd_cpu.hpp"
#include "scan/scan_forward.hpp"

namespace hax::ssd {
namespace {

// A scan that writes y; Params is ForwardParams or StepParams.
template <class Params>
class OutputScan : public HeadScan {
 public:
  OutputScan(const Params& p, const ScanBlocks& blocks, int64_t block, Workspace& scratch)
      : HeadScan(p, blocks, block, scratch), y_(p.y) {}

  void load_state(const Tensor& states, int64_t offset) { load(buf_.state, states, offset); }
  void store_state(const Tensor& states, int64_t offset) { store(states, offset, buf_.state); }

  void forward(int64_t row, int64_t token, int64_t count) {
    load_tile(row, token, count, true);
    for (int64_t h = 0; h < block_.count; ++h) {
      load_head(row, token, count, h);
      prepare_decays(count, h);
      prepare_mix(count, h);
      outputs_of_state(count, buf_.state + h * head_state_size(in_));
      add_outputs_of_tokens(count);
      advance_state(count, h);
      store_outputs(row, token, count, h);
    }
  }

 private:
  void store_outputs(int64_t row, int64_t token, int64_t count, int64_t h) {
    load_skip(h);
    float z[kMaxHeadWidth];
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = t * width_padded_;
      if (in_.z) load_token(z, in_.z, row, token + t, h);
      for (int64_t p = 0; p < width_padded_; p += kLanes) {
        Vec y = simd::load(buf_.y + at + p);
        y += simd::load(buf_.skip + p) * simd::load(buf_.x + at + p);
        if (in_.z) y *= simd::silu(simd::load(z + p));
        simd::store(buf_.y + at + p, y);
      }
      store_token(y_, row, token + t, h, buf_.y + at);
    }
  }

  const Tensor& y_;
};

}  // namespace

template <>
void cpu_forward<kCpuLevel>(const ForwardParams& p, const ScanForwardPlan& plan, int num_threads) {
  scan_forward<OutputScan<ForwardParams>>(p, plan, num_threads);
}

template <>
void cpu_step<kCpuLevel>(const StepParams& p, const ScanForwardPlan& plan, int num_threads) {
  scan_step<OutputScan<StepParams>>(p, plan, num_threads);
}

}  // namespace hax::ssd
