#include "scan/scan_backward.hpp"
#include "scan/selective_scan/selective_scan_cpu.hpp"

namespace hax::selective_scan {
namespace {

constexpr float kLog2 = 0.693147181f;

class GradientScan : public ChannelScan {
 public:
  GradientScan(const BackwardParams& p, const ScanBlocks& blocks, int64_t block, Workspace& scratch)
      : ChannelScan(p, blocks, block, scratch), p_(p), grad_(p.states, width_, scratch) {}

  float* state() { return buf_.state; }
  float* dstate() { return grad_.dstate; }
  void load(float* to, const Tensor& states, int64_t offset) { load_or_zero(to, states, offset); }

  void sweep(int64_t row, int64_t token, int64_t count) {
    load_tile(row, token, count, nullptr);
    advance<false>(row, token, count);
  }

  void reverse(int64_t row, int64_t token, int64_t count, const float* start, float* shares,
               double* sums) {
    load_tile(row, token, count, grad_.slope);
    load_C(row, token, count);
    load_gradients(row, token, count);
    for_each_run(p_.states, [&](int64_t n, auto run) {
      reverse_run<run.value>(n, count, start, shares, sums);
    });
    store_gradients(row, token, count, sums + p_.states * width_);
  }

 private:
  // Recomputed states of one vector of channels: before the tile, then after each token.
  template <int kRun>
  struct History {
    Vec h[kScanTile + 1][kRun];
    Vec decay[kScanTile][kRun];  // less 1
  };
  // Shares of dB and dC, summed over the block's vectors but not yet over lanes.
  template <int kRun>
  struct LaneShares {
    Vec dB[kScanTile][kRun];
    Vec dC[kScanTile][kRun];
  };

  void load_gradients(int64_t row, int64_t token, int64_t count) {
    for (int64_t t = 0; t < count; ++t) {
      load_token(buf_.row, p_.dy, row, token + t);
      if (p_.z) load_token(buf_.other_row, p_.z, row, token + t);
      for (int64_t lane = 0; lane < used_; lane += kLanes) {
        Vec dsum = simd::load(buf_.row + lane);
        if (p_.z) {
          const Vec z = simd::load(buf_.other_row + lane);
          simd::store(grad_.dz + at(lane, t), dsum * simd::silu_slope(z));
          dsum *= simd::silu(z);
        }
        simd::store(grad_.dsum + at(lane, t), dsum);
      }
    }
  }

  template <int kRun>
  void reverse_run(int64_t n, int64_t count, const float* start, float* shares, double* sums) {
    History<kRun> history;
    LaneShares<kRun> lane_shares;
    for (int64_t lane = 0; lane < used_; lane += kLanes) {
      recompute<kRun>(history, lane, n, count, start);
      reverse_vector<kRun>(history, lane_shares, lane, n, count, sums);
    }
    if (!p_.dB && !p_.dC) return;
    for (int64_t t = 0; t < count; ++t) {
      float* const to = shares + t * 2 * p_.states + n;
      for (int i = 0; i < kRun; ++i) to[i] = simd::sum(lane_shares.dB[t][i]);
      for (int i = 0; i < kRun; ++i) to[p_.states + i] = simd::sum(lane_shares.dC[t][i]);
    }
  }

  template <int kRun>
  HAX_INLINE void recompute(History<kRun>& history, int64_t lane, int64_t n, int64_t count,
                            const float* start) {
    const float* const rate = buf_.rate + n * width_ + lane;
    Vec h[kRun], a[kRun];
    for (int i = 0; i < kRun; ++i) h[i] = simd::load(start + (n + i) * width_ + lane);
    for (int i = 0; i < kRun; ++i) a[i] = simd::load(rate + i * width_);
    for (int i = 0; i < kRun; ++i) history.h[0][i] = h[i];
    for (int64_t t = 0; t < count; ++t) {
      const Vec dt = simd::load(buf_.dt + at(lane, t));
      const Vec dtu = simd::load(buf_.dtu + at(lane, t));
      const float* const B = buf_.B + t * p_.states + n;
      const float* const C = buf_.C + t * p_.states + n;
      Vec y = n == 0 ? Vec{} : simd::load(buf_.y + at(lane, t));
      for (int i = 0; i < kRun; ++i) {
        history.decay[t][i] = simd::exp2m1(dt * a[i]);
        h[i] = dtu * B[i] + (h[i] * history.decay[t][i] + h[i]);
        history.h[t + 1][i] = h[i];
        y += h[i] * C[i];
      }
      simd::store(buf_.y + at(lane, t), y);
    }
  }

  template <int kRun>
  HAX_INLINE void reverse_vector(const History<kRun>& history, LaneShares<kRun>& lane_shares,
                                 int64_t lane, int64_t n, int64_t count, double* sums) {
    const float* const rate = buf_.rate + n * width_ + lane;
    float* const dstate = grad_.dstate + n * width_ + lane;
    Vec dh[kRun], dA[kRun] = {};
    for (int i = 0; i < kRun; ++i) dh[i] = simd::load(dstate + i * width_);
    for (int64_t t = count - 1; t >= 0; --t) {
      const Vec dt = simd::load(buf_.dt + at(lane, t));
      const Vec dtu = simd::load(buf_.dtu + at(lane, t));
      const Vec dsum = simd::load(grad_.dsum + at(lane, t));
      const float* const B = buf_.B + t * p_.states + n;
      const float* const C = buf_.C + t * p_.states + n;
      Vec du = n == 0 ? Vec{} : simd::load(grad_.du + at(lane, t));
      Vec ddt = n == 0 ? Vec{} : simd::load(grad_.ddt + at(lane, t));
      for (int i = 0; i < kRun; ++i) {
        dh[i] += dsum * C[i];
        const Vec dB = dh[i] * dtu;
        const Vec dC = dsum * history.h[t + 1][i];
        lane_shares.dB[t][i] = lane == 0 ? dB : lane_shares.dB[t][i] + dB;
        lane_shares.dC[t][i] = lane == 0 ? dC : lane_shares.dC[t][i] + dC;
        du += dh[i] * B[i];
        const Vec before = history.h[t][i];
        const Vec decay = history.decay[t][i];
        const Vec drate = dh[i] * (before * decay + before);  // against log(decay)
        dA[i] += drate * dt;
        ddt += drate * simd::load(rate + i * width_);
        dh[i] += dh[i] * decay;
      }
      simd::store(grad_.du + at(lane, t), du);
      simd::store(grad_.ddt + at(lane, t), ddt);
    }
    for (int i = 0; i < kRun; ++i) simd::store(dstate + i * width_, dh[i]);
    for (int i = 0; i < kRun; ++i) add_to_sums(sums + (n + i) * width_ + lane, dA[i]);
  }

  // Sums over a tile are kept in fp32, sums over tiles in fp64.
  HAX_INLINE static void add_to_sums(double* sums, Vec v) {
    float lanes[kLanes];
    simd::store(lanes, v);
    for (int i = 0; i < kLanes; ++i) sums[i] += static_cast<double>(lanes[i]);
  }

  // What is left once all states are done; sums: those of D and delta_bias.
  void store_gradients(int64_t row, int64_t token, int64_t count, double* sums) {
    for (int64_t lane = 0; lane < used_; lane += kLanes) {
      const Vec skip = simd::load(buf_.skip + lane);
      Vec dskip = {}, dbias = {};
      for (int64_t t = 0; t < count; ++t) {
        const Vec u = simd::load(buf_.u + at(lane, t));
        const Vec dsum = simd::load(grad_.dsum + at(lane, t));
        const Vec du = simd::load(grad_.du + at(lane, t));
        const Vec ddelta = (simd::load(grad_.ddt + at(lane, t)) * kLog2 + du * u) *
                           simd::load(grad_.slope + at(lane, t));
        simd::store(grad_.ddt + at(lane, t), ddelta);
        simd::store(grad_.du + at(lane, t), du * simd::load(buf_.dt + at(lane, t)) + dsum * skip);
        if (p_.dz) {
          const Vec y = simd::load(buf_.y + at(lane, t)) + skip * u;
          simd::store(grad_.dz + at(lane, t), simd::load(grad_.dz + at(lane, t)) * y);
        }
        dskip += dsum * u;
        dbias += ddelta;
      }
      add_to_sums(sums + lane, dskip);
      add_to_sums(sums + width_ + lane, dbias);
    }
    for (int64_t t = 0; t < count; ++t) {
      if (p_.du) store_tile_token(p_.du, row, token, grad_.du, t);
      if (p_.ddelta) store_tile_token(p_.ddelta, row, token, grad_.ddt, t);
      if (p_.dz) store_tile_token(p_.dz, row, token, grad_.dz, t);
    }
  }

  const BackwardParams& p_;
  BackwardBuffers grad_;
};

// Adds up the rows' sums of dA, dD and ddelta_bias.
void write_parameter_gradients(const BackwardParams& p, const ScanBackwardPlan& plan) {
  const int64_t width = padded_width(plan.blocks);
  for (int64_t index = 0; index < plan.blocks.count(); ++index) {
    const ScanBlock block = plan.blocks.at(index);
    for (int64_t c = 0; c < block.count; ++c) {
      const int64_t d = block.first + c;
      const auto total = [&](int64_t row) {
        return static_cast<float>(total_of(plan, index, row * width + c));
      };
      for (int64_t n = 0; n < p.states && p.dA; ++n) *p.dA.at<float>(d, n) = total(n);
      if (p.dD) *p.dD.at<float>(d) = total(p.states);
      if (p.ddelta_bias) *p.ddelta_bias.at<float>(d) = total(p.states + 1);
    }
  }
}

}  // namespace

template <>
void cpu_backward<kCpuLevel>(const BackwardParams& p, const ScanBackwardPlan& plan,
                             int num_threads) {
  scan_backward<GradientScan>(p, plan, num_threads);
  write_parameter_gradients(p, plan);
}

}  // namespace hax::selective_scan
