#include "scan/selective_scan/selective_scan_cpu.hpp"
#include "scan/scan_forward.hpp"

namespace hax::selective_scan {
namespace {

// A scan that writes y; Params is ForwardParams or StepParams.
template <class Params>
class OutputScan : public ChannelScan {
 public:
  OutputScan(const Params& p, const ScanBlocks& blocks, int64_t block, Workspace& scratch)
      : ChannelScan(p, blocks, block, scratch), y_(p.y) {}

  void load_state(const Tensor& states, int64_t offset) {
    load_or_zero(buf_.state, states, offset);
  }
  void store_state(const Tensor& states, int64_t offset) { store(states, offset, buf_.state); }

  void forward(int64_t row, int64_t token, int64_t count) {
    load_tile(row, token, count, nullptr);
    load_C(row, token, count);
    advance<true>(row, token, count);
    for (int64_t t = 0; t < count; ++t) {
      if (in_.z) load_token(buf_.other_row, in_.z, row, token + t);
      for (int64_t lane = 0; lane < used_; lane += kLanes) {
        Vec y = simd::load(buf_.y + at(lane, t));
        y += simd::load(buf_.skip + lane) * simd::load(buf_.u + at(lane, t));
        if (in_.z) y *= simd::silu(simd::load(buf_.other_row + lane));
        simd::store(buf_.row + lane, y);
      }
      store_token(y_, row, token + t, buf_.row);
    }
  }

 private:
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

}  // namespace hax::selective_scan
