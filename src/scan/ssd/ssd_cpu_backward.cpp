#include "scan/scan_backward.hpp"
#include "scan/ssd/ssd_cpu.hpp"

namespace hax::ssd {
namespace {

class GradientScan : public HeadScan {
 public:
  GradientScan(const BackwardParams& p, const ScanBlocks& blocks, int64_t block, Workspace& scratch)
      : HeadScan(p, blocks, block, scratch), p_(p), grad_(p, blocks.size, scratch) {}

  float* state() { return buf_.state; }
  float* dstate() { return grad_.dstate; }

  void sweep(int64_t row, int64_t token, int64_t count) {
    load_tile(row, token, count, false);
    for (int64_t h = 0; h < block_.count; ++h) {
      load_head(row, token, count, h);
      prepare_decays(count, h);
      advance_state(count, h);
    }
  }

  void reverse(int64_t row, int64_t token, int64_t count, const float* start, float* shares,
               double* sums) {
    load_tile(row, token, count, true);
    for (int64_t h = 0; h < block_.count; ++h) {
      reverse_head(row, token, count, h, start + h * head_state_size(p_),
                   sums + h * head_sums_size(p_));
    }
    store_step_gradients(row, token, count);
    if (p_.dB || p_.dC) leave_shares(count, shares);
  }

 private:
  // Gradients that a tile's decays receive, per token. Decay exponents c_t are sums of dt A.
  struct DecayGradients {
    float direct[kScanTile] = {};  // of dt_s where it scales x_s
    float between[kScanTile] =
        {};  // of dt_i A through the decays from tokens s < i to tokens t >= i
    float from_start[kScanTile] = {};  // of c_t through the state before the tile
    float to_end[kScanTile] = {};      // of c_end - c_s through the state after it, without dt_s
    double whole = 0.0;                // of c_end through both
  };

  void reverse_head(int64_t row, int64_t token, int64_t count, int64_t h, const float* start,
                    double* sums) {
    float* const dstate = grad_.dstate + h * head_state_size(p_);
    DecayGradients decays;
    load_head(row, token, count, h);
    load_skip(h);
    load_gradients(row, token, count, h);
    prepare_decays(count, h);
    prepare_mix(count, h);

    outputs_of_state(count, start);
    dot_rows(decays.from_start, grad_.dsum, buf_.y, count);
    if (p_.dz) {
      add_outputs_of_tokens(count);
      store_dz(row, token, count, h);
    }
    gradients_of_mix(count, h, decays);
    gradients_of_x(row, token, count, h, dstate, decays);
    if (p_.dB || p_.dC) gradients_through_states(count, h, start, dstate);
    decays.whole = (1.0 + static_cast<double>(decay_less_1_)) * dot_states(start, dstate);
    add_skip_gradient(count, sums + 2);
    gradients_of_steps(count, h, decays, sums);

    weight_rows(buf_.C, count, buf_.from_start, nullptr);
    advance(dstate, grad_.dsum, count);
  }

  void load_gradients(int64_t row, int64_t token, int64_t count, int64_t h) {
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = t * width_padded_;
      load_token(grad_.dy + at, p_.dy, row, token + t, h);
      if (p_.z) load_token(grad_.z + at, p_.z, row, token + t, h);
      for (int64_t p = at; p < at + width_padded_; p += kLanes) {
        const Vec dy = simd::load(grad_.dy + p);
        simd::store(grad_.dsum + p, p_.z ? dy * simd::silu(simd::load(grad_.z + p)) : dy);
      }
    }
  }

  void store_dz(int64_t row, int64_t token, int64_t count, int64_t h) {
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = t * width_padded_;
      for (int64_t p = 0; p < width_padded_; p += kLanes) {
        const Vec y =
            simd::load(buf_.y + at + p) + simd::load(buf_.skip + p) * simd::load(buf_.x + at + p);
        const Vec slope = simd::silu_slope(simd::load(grad_.z + at + p));
        simd::store(grad_.z + at + p, simd::load(grad_.dy + at + p) * y * slope);
      }
      store_token(p_.dz, row, token + t, h, grad_.z + at);
    }
  }

  // The tile's own tokens: dscores, summed over heads, and what dt and the decays between tokens receive.
  void gradients_of_mix(int64_t count, int64_t h, DecayGradients& decays) {
    transpose_weighted(grad_.xt, kScanTile, buf_.x, width_padded_, nullptr, count, p_.width);
    multiply({.out = grad_.dmix,
              .out_stride = kScanTile,
              .rows = count,
              .width = padded(count),
              .a = {grad_.dsum, width_padded_, 1},
              .b = grad_.xt,
              .b_stride = kScanTile,
              .depth = p_.width});
    const float* const dt = buf_.dt + h * kScanTile;
    float carried[kScanTile] = {};  // to c_t - c_s of all later t
    for (int64_t t = count - 1; t >= 0; --t) {
      Vec between = {};
      for (int64_t s = 0; s <= t; s += kLanes) {
        const int64_t at = t * kScanTile + s;
        const simd::IntVec causal = columns_up_to(s, t), strictly = columns_up_to(s, t - 1);
        const Vec step = simd::load(dt + s);
        const Vec weighted =
            causal ? simd::load(grad_.dmix + at) * simd::load(buf_.decay + at) : Vec{};
        const Vec direct = causal ? weighted * simd::load(buf_.scores + at) : Vec{};
        const Vec dscores = weighted * step;
        const Vec sum = simd::load(carried + s) + direct * step;
        simd::store(grad_.dscores + at,
                    h == 0 ? dscores : simd::load(grad_.dscores + at) + dscores);
        simd::store(decays.direct + s, simd::load(decays.direct + s) + direct);
        simd::store(carried + s, sum);
        between += strictly ? sum : Vec{};
      }
      decays.between[t] = simd::sum(between);
    }
  }

  void gradients_of_x(int64_t row, int64_t token, int64_t count, int64_t h, const float* dstate,
                      DecayGradients& decays) {
    multiply({.out = grad_.dx,
              .out_stride = width_padded_,
              .rows = count,
              .width = width_padded_,
              .a = {buf_.mix, 1, kScanTile},
              .b = grad_.dsum,
              .b_stride = width_padded_,
              .depth = count,
              .terms = Terms::from_row});
    weight_rows(buf_.B, count, buf_.to_end, nullptr);
    multiply({.out = grad_.from_dstate,
              .out_stride = width_padded_,
              .rows = count,
              .width = width_padded_,
              .a = {buf_.weighted, states_padded_, 1},
              .b = dstate,
              .b_stride = width_padded_,
              .depth = p_.states});
    dot_rows(decays.to_end, buf_.x, grad_.from_dstate, count);
    for (int64_t t = 0; t < count && p_.dx; ++t) {
      const int64_t at = t * width_padded_;
      const float dt = buf_.dt[h * kScanTile + t];
      for (int64_t p = 0; p < width_padded_; p += kLanes) {
        Vec dx = simd::load(grad_.dx + at + p);
        dx += simd::load(grad_.from_dstate + at + p) * dt;
        dx += simd::load(grad_.dsum + at + p) * simd::load(buf_.skip + p);
        simd::store(grad_.dx + at + p, dx);
      }
      store_token(p_.dx, row, token + t, h, grad_.dx + at);
    }
  }

  // What dB receives through the state after the tile and dC through the one before it, over heads.
  void gradients_through_states(int64_t count, int64_t h, const float* start, const float* dstate) {
    float weights[kScanTile];
    for (int64_t t = 0; t < count; ++t) weights[t] = buf_.to_end[t] * buf_.dt[h * kScanTile + t];
    transpose_weighted(grad_.xt, kScanTile, buf_.x, width_padded_, weights, count, p_.width);
    transpose_weighted(grad_.dsumt, kScanTile, grad_.dsum, width_padded_, buf_.from_start, count,
                       p_.width);
    Product product = {.out = grad_.dBt,
                       .out_stride = kScanTile,
                       .rows = p_.states,
                       .width = padded(count),
                       .a = {dstate, width_padded_, 1},
                       .b = grad_.xt,
                       .b_stride = kScanTile,
                       .depth = p_.width,
                       .add = h > 0};
    multiply(product);
    product.out = grad_.dCt;
    product.a.data = start;
    product.b = grad_.dsumt;
    multiply(product);
  }

  // dt and A: token i's dt A is part of c_t for all t >= i.
  void gradients_of_steps(int64_t count, int64_t h, const DecayGradients& decays, double* sums) {
    const float* const dt = buf_.dt + h * kScanTile;
    const auto A = static_cast<double>(*p_.A.at<float>(block_.first + h));
    double before = 0.0;  // of decays to the tile's end from tokens before i
    for (int64_t i = 0; i < count; ++i) before += dt[i] * decays.to_end[i];
    double after = 0.0;  // of decays from the tile's start to tokens t >= i
    for (int64_t i = count - 1; i >= 0; --i) {
      after += static_cast<double>(decays.from_start[i]);
      before -= dt[i] * decays.to_end[i];
      const double dexponent =
          static_cast<double>(decays.between[i]) + after + before + decays.whole;
      const double dstep = A * dexponent + static_cast<double>(decays.direct[i] + decays.to_end[i]);
      const double ddt = dstep * static_cast<double>(buf_.slope[h * kScanTile + i]);
      grad_.ddt[h * kScanTile + i] = static_cast<float>(ddt);
      sums[0] += dexponent * static_cast<double>(dt[i]);
      sums[1] += ddt;
    }
  }

  void add_skip_gradient(int64_t count, double* sums) {
    if (!p_.dD) return;
    for (int64_t p = 0; p < p_.width; p += kLanes) {
      Vec sum = {};
      for (int64_t t = 0; t < count; ++t) {
        const int64_t at = t * width_padded_ + p;
        sum += simd::load(grad_.dsum + at) * simd::load(buf_.x + at);
      }
      for (int64_t i = p; i < smaller(p + kLanes, p_.width); ++i) {
        sums[i] += static_cast<double>(sum[i - p]);
      }
    }
  }

  void store_step_gradients(int64_t row, int64_t token, int64_t count) {
    if (!p_.ddt) return;
    for (int64_t t = 0; t < count; ++t) {
      float ddt[kScanPadding];
      for (int64_t h = 0; h < block_.count; ++h) ddt[h] = grad_.ddt[h * kScanTile + t];
      simd::store_row(p_.ddt, p_.ddt.offset(row, token + t, block_.first), ddt, block_.count);
    }
  }

  // dB = dscores^T C and dC = dscores B, and what came through the states.
  void leave_shares(int64_t count, float* shares) {
    Product product = {.out = grad_.dB,
                       .out_stride = states_padded_,
                       .rows = count,
                       .width = states_padded_,
                       .a = {grad_.dscores, 1, kScanTile},
                       .b = buf_.C,
                       .b_stride = states_padded_,
                       .depth = count,
                       .terms = Terms::from_row};
    multiply(product);
    product.out = grad_.dC;
    product.a = {grad_.dscores, kScanTile, 1};
    product.b = buf_.B;
    product.terms = Terms::up_to_row;
    multiply(product);
    for (int64_t t = 0; t < count; ++t) {
      float* const dB = shares + t * 2 * p_.states;
      float* const dC = dB + p_.states;
      for (int64_t n = 0; n < p_.states; ++n) {
        dB[n] = grad_.dB[t * states_padded_ + n] + grad_.dBt[n * kScanTile + t];
        dC[n] = grad_.dC[t * states_padded_ + n] + grad_.dCt[n * kScanTile + t];
      }
    }
  }

  // to[t] = a[t] . b[t], rows of P.
  void dot_rows(float* to, const float* a, const float* b, int64_t count) const {
    for (int64_t t = 0; t < count; ++t) {
      Vec sum = {};
      for (int64_t p = t * width_padded_; p < (t + 1) * width_padded_; p += kLanes) {
        sum += simd::load(a + p) * simd::load(b + p);
      }
      to[t] = simd::sum(sum);
    }
  }

  double dot_states(const float* a, const float* b) const {
    double total = 0.0;
    for (int64_t n = 0; n < p_.states; ++n) {
      Vec sum = {};
      for (int64_t p = n * width_padded_; p < (n + 1) * width_padded_; p += kLanes) {
        sum += simd::load(a + p) * simd::load(b + p);
      }
      total += static_cast<double>(simd::sum(sum));
    }
    return total;
  }

  const BackwardParams& p_;
  BackwardBuffers grad_;
};

// Adds up the rows' sums of dA, ddt_bias and dD.
void write_parameter_gradients(const BackwardParams& p, const ScanBackwardPlan& plan) {
  for (int64_t index = 0; index < plan.blocks.count(); ++index) {
    const ScanBlock block = plan.blocks.at(index);
    for (int64_t h = 0; h < block.count; ++h) {
      const int64_t head = block.first + h;
      const auto total = [&](int64_t i) {
        return total_of(plan, index, h * head_sums_size(p) + i);
      };
      if (p.dA) *p.dA.at<float>(head) = static_cast<float>(total(0));
      if (p.ddt_bias) *p.ddt_bias.at<float>(head) = static_cast<float>(total(1));
      if (!p.dD) continue;
      double whole = 0.0;
      for (int64_t i = 0; i < p.width; ++i) {
        const double dD = total(2 + i);
        if (p.dD.ndim == 2) *p.dD.at<float>(head, i) = static_cast<float>(dD);
        whole += dD;
      }
      if (p.dD.ndim == 1) *p.dD.at<float>(head) = static_cast<float>(whole);
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

}  // namespace hax::ssd
