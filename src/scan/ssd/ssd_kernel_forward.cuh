// Forward of ssd for 16-bit activations by products of matrices, a chunk of 64 tokens at a time.
#pragma once

#include "device/flag.cuh"
#include "device/warpgroup.cuh"
#include "scan/ssd/ssd_kernel_chunk.cuh"

namespace hax::ssd {

// Threads of a block at most: a state of 256 takes twice the registers.
template <int N>
inline constexpr int kForwardThreads = N > 128  ? 256
                                       : N > 32 ? 384
                                                : 512;

// Which tensors can be moved in accesses of 16 bytes.
struct ForwardAccess {
  bool x, z, y, states;
};

// Bytes of a block's shared memory: stages of B, C and x; each unit's mix; decays of this chunk and the next.
inline size_t forward_memory(int64_t states, int stages, int units, int warps, bool output) {
  const int64_t tile = kChunk * states * 2, mix = kChunk * kChunk * 2;
  const int64_t stage = (output ? 2 : 1) * tile + int64_t{units} * kChunk * warps * kTileRows * 2;
  return static_cast<size_t>(stages * stage + (output ? units * mix : 0) +
                             2 * units * static_cast<int64_t>(sizeof(Decays)));
}

// Units of a block: rows of heads, all of one group.
struct UnitBlock {
  int64_t group, first;
  int count;

  __device__ UnitBlock(const Inputs& in, int64_t index, int units) {
    const int64_t all = in.heads / in.groups * slices(in.width);
    const int64_t blocks = (all + units - 1) / units;
    const int64_t begin = index % blocks * units;
    group = index / blocks;
    first = group * all + begin;
    count = static_cast<int>(min(int64_t{units}, all - begin));
  }
};

inline int64_t unit_blocks(const Inputs& in, int units) {
  return in.groups > 0 ? in.groups * ceil_div(in.heads / in.groups * slices(in.width), units) : 0;
}

// Keeps the compiler from holding on to numbers made from these (packed or unpacked), for which there are no registers.
template <class T, int M, int K>
__device__ void forget_derived(T (&values)[M][K]) {
#pragma unroll
  for (int i = 0; i < M; ++i) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if constexpr (sizeof(T) == 4 && T(0.5) != T(0)) {
        asm volatile("" : "+f"(values[i][k]));
      } else {
        asm volatile("" : "+r"(values[i][k]));
      }
    }
  }
}

template <class T, int N, bool kOutput>
class ForwardBlock {
 public:
  __device__ ForwardBlock(const ForwardParams& p, const CudaForwardPlan& plan,
                          const ForwardAccess& access, int stages, bool split, char* memory)
      : p_(p),
        plan_(plan),
        access_(access),
        stages_(stages),
        split_(split),
        x_panel_{plan.warps * 2},
        lane_(threadIdx.x % device::kWarp),
        warp_(threadIdx.x / device::kWarp),
        unit_(warp_ / plan.warps),
        tile_row_(warp_ % plan.warps * kTileRows) {
    const MatrixPlace place(x_panel_, true);
    x_lane_ = place.row + (place.group ^ (tile_row_ * 2));
    uint32_t at = device::shared_address(memory);
    stage_bytes_ = (kOutput ? 2 : 1) * kStateBytes + plan.units * x_panel_.bytes();
    stage0_ = at;
    at += stages * stage_bytes_;
    mix_ = at;
    if (kOutput) at += plan.units * kMixBytes;
    decays_ = reinterpret_cast<Decays*>(memory + (at - device::shared_address(memory)));
    if (kOutput && kWarpgroups) {
      for (int i = threadIdx.x * 4; i < plan.units * kMixBytes; i += blockDim.x * 4) {
        device::store_shared(mix_ + i, 0u);
      }
    }
  }

  __device__ void enter(const UnitBlock& block) {
    const int64_t index = block.first + min(unit_, block.count - 1);
    head_ = static_cast<int>(index / slices(p_.width));
    row_ = static_cast<int>(index % slices(p_.width)) * kSliceRows + tile_row_;
    busy_ = unit_ < block.count;
    rate_ = *p_.A.at<float>(head_) * device::kLog2E;
    bias_ = p_.dt_bias ? *p_.dt_bias.at<float>(head_) : 0.0f;
    piece_decay = 1.0f;
    for (int i = 0; i < 2 && p_.D; ++i) {
      const int64_t row = min(int64_t{row_ + lane_ / 4 + 8 * i}, p_.width - 1);
      skip_[i] = p_.D.ndim == 2 ? *p_.D.at<float>(head_, row) : *p_.D.at<float>(head_);
    }
  }

  // Tokens [begin, end) of a sequence; h is the state before and after. Ends with all threads in step.
  __device__ void run(const UnitBlock& block, const Sequences::Range& range, int64_t begin,
                      int64_t end) {
    const bool makes_decays = busy_ && tile_row_ == 0;

    int64_t t = begin;
    int tokens = chunk_tokens(t, end), parity = 0;
    RawSteps raw;
    load_stage(0, block, range.row, range.begin + t, tokens);
    if (makes_decays) {
      raw.load(p_, range.row, range.begin + t, tokens, head_);
      make_decays(decays(0), p_, raw, tokens, rate_, bias_);
    }
    while (t < end) {
      const int64_t next = t + tokens;
      const int next_tokens = next < end ? chunk_tokens(next, end) : 0;
      device::wait_for_copies<0>();
      device::publish_to_products();
      __syncthreads();
      const int stage = stages_ > 1 ? parity : 0;
      if (next_tokens > 0) {
        if (stages_ > 1) load_stage(parity ^ 1, block, range.row, range.begin + next, next_tokens);
        if (makes_decays) raw.load(p_, range.row, range.begin + next, next_tokens, head_);
      }
      if (kOutput) {
        make_mix(stage, block.count, tokens, parity);
        device::publish_to_products();
        __syncthreads();
      }
      if (busy_) {
        if (kOutput) {
          outputs(stage, parity, range.row, range.begin + t, tokens);
        } else {
          uint32_t x[kBlocks][4];
          load_x(x, stage);
          advance(x, stage, parity);
        }
        if (p_.checkpoints && next % p_.checkpoints.every == 0 && kOutput) {
          store_state(p_.checkpoints.states, p_.checkpoints.offset(range, next), 2);
        }
      }
      if (next_tokens > 0) {
        if (makes_decays) make_decays(decays(parity ^ 1), p_, raw, next_tokens, rate_, bias_);
        if (stages_ == 1) {
          __syncthreads();
          load_stage(0, block, range.row, range.begin + next, next_tokens);
        }
      }
      t = next;
      tokens = next_tokens;
      parity ^= 1;
    }
    __syncthreads();
  }

  // `axis`: of the heads. 0 where `states` is none.
  __device__ void load_state(const Tensor& states, int64_t offset, int axis) {
    each(states, offset, axis, [&](float& value, bool valid, int64_t at) {
      value = valid && states ? device::load_any(states, at) : 0.0f;
    });
  }
  __device__ void store_state(const Tensor& states, int64_t offset, int axis) {
    each(states, offset, axis, [&](float& value, bool valid, int64_t at) {
      if (valid) device::store_any(states, at, value);
    });
  }

  // States of slots in the workspace, each thread's part as it holds it. h becomes h decay + the slot's.
  __device__ void load_workspace(int64_t slot, float decay) {
    const float4* const states = workspace_state(slot);
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
      const float4 other = __ldcg(states + i * device::kWarp);
      h[i][0] = h[i][0] * decay + other.x, h[i][1] = h[i][1] * decay + other.y;
      h[i][2] = h[i][2] * decay + other.z, h[i][3] = h[i][3] * decay + other.w;
    }
  }
  __device__ void store_workspace(int64_t slot) {
    float4* const states = workspace_state(slot);
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
      states[i * device::kWarp] = make_float4(h[i][0], h[i][1], h[i][2], h[i][3]);
    }
  }

  // The state as products leave it: lane 4 r + c has rows r and r + 8, states 8 i + 2 c and + 1.
  float h[N / 8][4];
  float piece_decay;  // of the state over what run() went through

 private:
  __device__ float4* workspace_state(int64_t slot) const {
    return reinterpret_cast<float4*>(plan_.states) +
           (slot * (blockDim.x / device::kWarp) + warp_) * (N / 8) * device::kWarp + lane_;
  }

  // Products by warpgroups, a unit each; a product for all tokens then. They read mix above its diagonal too.
  static constexpr bool kWarpgroups = device::kWarpgroupProducts && N >= 64;
  static constexpr int kTogether = kWarpgroups ? kChunk : 32;  // tokens of y held at a time
  static constexpr int kPanelBytes = kChunk * 128;
  static constexpr int kStateBytes = kChunk * N * 2;
  static constexpr int kMixBytes = kChunk * kChunk * 2;
  __device__ static constexpr Panel state_panel() { return {kStateGroups<N>}; }
  __device__ static constexpr Panel mix_panel() { return {8}; }

  __device__ Decays& decays(int parity) const { return decays_[parity * plan_.units + unit_]; }
  // Shared addresses.
  __device__ uint32_t B_tile(int stage) const { return stage0_ + stage * stage_bytes_; }
  __device__ uint32_t C_tile(int stage) const { return B_tile(stage) + kStateBytes; }
  __device__ uint32_t x_tile(int stage, int unit) const {
    return B_tile(stage) + (kOutput ? 2 : 1) * kStateBytes + unit * x_panel_.bytes();
  }

  __device__ int chunk_tokens(int64_t t, int64_t end) const {
    return static_cast<int>(min(int64_t{kChunk}, p_.checkpoints.next_stop(t, end) - t));
  }

  __device__ void load_stage(int stage, const UnitBlock& block, int64_t row, int64_t token,
                             int tokens) {
    const auto load_states = [&](uint32_t tile, const Tensor& from) {
      load_tile<T>(tile, state_panel(), N / 8, from.at<T>(row, token, block.group), from.stride[1],
                   from.stride[3], static_cast<int>(p_.states), tokens, access_.states);
    };
    load_states(B_tile(stage), p_.B);
    if (kOutput) load_states(C_tile(stage), p_.C);
    for (int u = 0; u < block.count; ++u) {
      const int64_t index = block.first + u, slice = index % slices(p_.width) * kSliceRows;
      load_tile<T>(x_tile(stage, u), x_panel_, x_panel_.groups,
                   p_.x.at<T>(row, token, index / slices(p_.width), slice), p_.x.stride[1],
                   p_.x.stride[3], static_cast<int>(min(int64_t{kSliceRows}, p_.width - slice)),
                   tokens, access_.x);
    }
    device::commit_copies();
  }

  // Fragments of 16 rows of a tile of B or C, states 16 k .. 16 k + 15.
  __device__ static uint32_t states_at(uint32_t tile, const MatrixPlace& place, int first_row,
                                       int k) {
    constexpr int kPairs = state_panel().groups / 2;  // of groups in a panel
    return tile + place.at(k % kPairs) + k / kPairs * state_panel().bytes() +
           first_row * state_panel().groups * 16;
  }

  // mix[t][s] = decay from s to t, times dt_s, times C_t . B_s, for every unit; lower blocks of 16 x 16 only.
  __device__ void make_mix(int stage, int units, int tokens, int parity) {
    constexpr int kPairs = kBlocks * (kBlocks + 1) / 2;
    const MatrixPlace rows_first(state_panel(), false), groups_first(state_panel(), true);
    const int r = lane_ / 4, c = lane_ % 4;
    for (int pair = warp_; pair < kPairs; pair += blockDim.x / device::kWarp) {
      const int i = pair >= 6 ? 3 : pair >= 3 ? 2 : pair >= 1 ? 1 : 0;
      const int j = pair - i * (i + 1) / 2;
      if (i * kBlock >= tokens) break;
      float scores[2][4] = {};
#pragma unroll
      for (int k = 0; k < N / 16; ++k) {
        uint32_t C[4], B[4];
        device::load_matrix_x4(C, states_at(C_tile(stage), rows_first, i * kBlock, k));
        device::load_matrix_x4(B, states_at(B_tile(stage), groups_first, j * kBlock, k));
        device::mma_16x8x16<T>(scores[0], C, {B[0], B[1]});
        device::mma_16x8x16<T>(scores[1], C, {B[2], B[3]});
      }
      for (int u = 0; u < units; ++u) {
        const Decays& d = decays_[parity * plan_.units + u];
        const uint32_t mix = mix_ + u * kMixBytes;
        const int t = i * kBlock + r;
        const float within[2] = {d.within[t], d.within[t + 8]};
        float gap = 0.0f;
        for (int b = j + 1; b < i; ++b) gap += d.block[b];
        const float reach[2] = {device::exp2_approx(within[0] + gap),
                                device::exp2_approx(within[1] + gap)};
#pragma unroll
        for (int q = 0; q < 2; ++q) {
          const int s = j * kBlock + 8 * q + 2 * c;
          const float2 dt = *reinterpret_cast<const float2*>(&d.dt[s]);
          float values[4];
          if (i == j) {
            const float2 other = *reinterpret_cast<const float2*>(&d.within[s]);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float exponent = within[e / 2] - (e % 2 ? other.y : other.x);
              const float decay = device::exp2_approx(exponent) * (e % 2 ? dt.y : dt.x);
              values[e] = s + e % 2 <= t + e / 2 * 8 ? scores[q][e] * decay : 0.0f;
            }
          } else {
            const float2 left = *reinterpret_cast<const float2*>(&d.left[s]);
            const float from[2] = {device::exp2_approx(left.x) * dt.x,
                                   device::exp2_approx(left.y) * dt.y};
#pragma unroll
            for (int e = 0; e < 4; ++e) values[e] = scores[q][e] * reach[e / 2] * from[e % 2];
          }
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            device::store_shared(mix + mix_panel().at(t + 8 * half, s / 8) + 4 * c,
                                 device::pack_pair<T>(values[2 * half], values[2 * half + 1]));
          }
        }
      }
    }
  }

  // The warp's rows of x as left operands, block j: rows of the state by tokens 16 j .. 16 j + 15.
  __device__ void load_x(uint32_t (&x)[kBlocks][4], int stage) {
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
      device::load_matrix_x4_transposed(x[j], x_place(stage, j * kBlock));
    }
  }

  // Where a lane's row of the blocks of tokens first .. first + 15 and the warp's 16 columns lies.
  __device__ uint32_t x_place(int stage, int first) const {
    return x_tile(stage, unit_) + first * x_panel_.groups * 16 + x_lane_;
  }

  // y of the chunk and the state behind it. The warp's columns of the tile of x, whose content is in registers by then,
  // take y on its way out.
  __device__ void outputs(int stage, int parity, int64_t row, int64_t token, int tokens) {
    uint32_t x[kBlocks][4];
#pragma unroll
    for (int first = 0; first < kChunk; first += kTogether) {
      if (first >= tokens && first > 0) break;
      forget_derived(h);
      float y[kTogether / 8][4] = {};
      add_from_state(y, stage, first);
      if (first == 0) load_inputs(x, stage, row, token, tokens);
      const Decays& d = decays(parity);
#pragma unroll
      for (int i = 0; i < kTogether / 8; ++i) {
        const float2 decay = pair_of(d.from_start, first + 8 * i);
        y[i][0] *= decay.x, y[i][1] *= decay.y, y[i][2] *= decay.x, y[i][3] *= decay.y;
      }
      add_from_tokens(y, x, first);
      finish(y, x, stage, first);
    }
    __syncwarp();
    move_rows(p_.y, access_.y, stage, row, token, tokens,
              [](auto& memory, auto& shared) { memory = shared; });
    forget_derived(x);
    advance(x, stage, parity);
  }

  // x, and z into its place.
  __device__ void load_inputs(uint32_t (&x)[kBlocks][4], int stage, int64_t row, int64_t token,
                              int tokens) {
    load_x(x, stage);
    if (!p_.z) return;
    __syncwarp();
    move_rows(p_.z, access_.z, stage, row, token, tokens,
              [](auto& memory, auto& shared) { shared = memory; });
    __syncwarp();
  }

  // y += C h
  __device__ void add_from_state(float (&y)[kTogether / 8][4], int stage, int first) {
    const auto packed = [&](uint32_t(&state)[4], int k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const from = &h[2 * k + i / 2][i % 2 * 2];
        state[i] = device::pack_pair<T>(from[0], from[1]);
      }
    };
    if constexpr (kWarpgroups) {
      constexpr int kSteps = N / 16 < 8 ? N / 16 : 8;  // whose left operands have registers
#pragma unroll
      for (int first_step = 0; first_step < N / 16; first_step += kSteps) {
        uint32_t state[kSteps][4];
#pragma unroll
        for (int i = 0; i < kSteps; ++i) packed(state[i], first_step + i);
        device::begin_products();
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          const int k = first_step + i;
          const uint32_t C = C_tile(stage) + k / 4 * kPanelBytes + k % 4 * 32;
          device::warpgroup_mma<T, false>(y, state[i], device::swizzled_operand(C, 16, 1024));
        }
        device::end_products();
        device::wait_for_products();
      }
    } else {
      const MatrixPlace place(state_panel(), true);
#pragma unroll
      for (int k = 0; k < N / 16; ++k) {
        uint32_t state[4], C[4];
        packed(state, k);
#pragma unroll
        for (int block = 0; block < kTogether / kBlock; ++block) {
          device::load_matrix_x4(C, states_at(C_tile(stage), place, first + block * kBlock, k));
          device::mma_16x8x16<T>(y[2 * block], state, {C[0], C[1]});
          device::mma_16x8x16<T>(y[2 * block + 1], state, {C[2], C[3]});
        }
      }
    }
  }

  // y += mix x
  __device__ void add_from_tokens(float (&y)[kTogether / 8][4], const uint32_t (&x)[kBlocks][4],
                                  int first) {
    const uint32_t tile = mix_ + unit_ * kMixBytes;
    if constexpr (kWarpgroups) {
      device::begin_products();
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
        device::warpgroup_mma<T, false>(y, x[j], device::swizzled_operand(tile + j * 32, 16, 1024));
      }
      device::end_products();
      device::wait_for_products();
    } else {
      const MatrixPlace place(mix_panel(), true);
#pragma unroll
      for (int block = 0; block < kTogether / kBlock; ++block) {
        const int last = first / kBlock + block;
#pragma unroll
        for (int j = 0; j <= last; ++j) {
          uint32_t mix[4];
          device::load_matrix_x4(mix, tile + last * kBlock * 128 + place.at(j));
          device::mma_16x8x16<T>(y[2 * block], x[j], {mix[0], mix[1]});
          device::mma_16x8x16<T>(y[2 * block + 1], x[j], {mix[2], mix[3]});
        }
      }
    }
  }

  // Skip and gate, then into the place of x.
  __device__ void finish(float (&y)[kTogether / 8][4], const uint32_t (&x)[kBlocks][4], int stage,
                         int first) {
#pragma unroll
    for (int block = 0; block < kTogether / kBlock; ++block) {
      const int j = first / kBlock + block;
      const uint32_t place = x_place(stage, j * kBlock);
      // A left operand of rows by tokens and y hold the same elements.
      const auto own = [&](int i) -> float* { return &y[2 * block + i / 2][i % 2 * 2]; };
      if (p_.D) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 pair = device::unpack_pair<T>(x[j][i]);
          own(i)[0] += skip_[i % 2] * pair.x;
          own(i)[1] += skip_[i % 2] * pair.y;
        }
      }
      if (p_.z) {
        uint32_t z[4];
        device::load_matrix_x4_transposed(z, place);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 pair = device::unpack_pair<T>(z[i]);
          own(i)[0] *= device::silu(pair.x);
          own(i)[1] *= device::silu(pair.y);
        }
        __syncwarp();
      }
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = device::pack_pair<T>(own(i)[0], own(i)[1]);
      device::store_matrix_x4_transposed(place, words);
    }
  }

  // What this lane's columns of a fragment, tokens first + 2 c and + 1, need of an array.
  __device__ float2 pair_of(const float (&values)[kChunk], int first) const {
    return *reinterpret_cast<const float2*>(&values[first + lane_ % 4 * 2]);
  }

  // Moves the warp's columns between a tensor and the tile of x: move(global, shared) for elements of T or 16 bytes.
  template <class Move>
  __device__ void move_rows(const Tensor& tensor, bool vectors, int stage, int64_t row,
                            int64_t token, int tokens, Move&& move) {
    const int group = lane_ % 2;
    const int columns = min(8, static_cast<int>(p_.width) - row_ - group * 8);
    T* memory = tensor.at<T>(row, token + lane_ / 2, head_, row_ + group * 8);
    const int64_t stride = tensor.stride[3];
    const uint32_t tile = x_tile(stage, unit_);
#pragma unroll 1
    for (int t = lane_ / 2; t < tokens && columns > 0; t += 16, memory += 16 * tensor.stride[1]) {
      void* const shared = device::shared_pointer(tile + x_panel_.at(t, tile_row_ / 8 + group));
      if (vectors) {
        move(*reinterpret_cast<uint4*>(memory), *static_cast<uint4*>(shared));
      } else {
#pragma unroll 1
        for (int e = 0; e < columns; ++e) move(memory[e * stride], static_cast<T*>(shared)[e]);
      }
    }
  }

  // h = decay h + x^T (weight B) over the chunk.
  __device__ void advance(const uint32_t (&x)[kBlocks][4], int stage, int parity) {
    const Decays& d = decays(parity);
    const float whole = d.whole;
    piece_decay *= whole;
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) h[i][e] *= whole;
    }
    uint32_t weighted[kBlocks][4];
    weigh(weighted, x, d, false);
    add_to_state(weighted, stage);
    if (split_) {
      weigh(weighted, x, d, true);
      add_to_state(weighted, stage);
    }
  }

  // x times its tokens' weights, rounded to T; or what the rounding left.
  __device__ void weigh(uint32_t (&to)[kBlocks][4], const uint32_t (&x)[kBlocks][4],
                        const Decays& d, bool rest) {
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 weight = pair_of(d.weight, j * kBlock + i / 2 * 8);
        float2 own = device::unpack_pair<T>(x[j][i]);
        own.x *= weight.x, own.y *= weight.y;
        to[j][i] = device::pack_pair<T>(own.x, own.y);
        if (rest) {
          const float2 rounded = device::unpack_pair<T>(to[j][i]);
          to[j][i] = device::pack_pair<T>(own.x - rounded.x, own.y - rounded.y);
        }
      }
    }
  }

  // h += x^T B
  __device__ void add_to_state(const uint32_t (&x)[kBlocks][4], int stage) {
    if constexpr (kWarpgroups) {
      constexpr int kPart = N < 128 ? N : 128;  // states of a product
      device::begin_products();
#pragma unroll
      for (int part = 0; part < N / kPart; ++part) {
        auto& states = reinterpret_cast<float(&)[kPart / 8][4]>(h[part * kPart / 8]);
#pragma unroll
        for (int j = 0; j < kBlocks; ++j) {
          const uint32_t B = B_tile(stage) + part * kPart / 64 * kPanelBytes + j * kBlock * 128;
          device::warpgroup_mma<T, true>(states, x[j],
                                         device::swizzled_operand(B, kPanelBytes, 1024));
        }
      }
      device::end_products();
      device::wait_for_products();
    } else {
      const MatrixPlace place(state_panel(), false);
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
#pragma unroll
        for (int k = 0; k < N / 16; ++k) {
          uint32_t B[4];
          device::load_matrix_x4_transposed(B, states_at(B_tile(stage), place, j * kBlock, k));
          device::mma_16x8x16<T>(h[2 * k], x[j], {B[0], B[1]});
          device::mma_16x8x16<T>(h[2 * k + 1], x[j], {B[2], B[3]});
        }
      }
    }
  }

  template <class F>
  __device__ void each(const Tensor& states, int64_t offset, int axis, F&& f) {
    const int64_t row_stride = states ? states.stride[axis + 1] : 0;
    int64_t stride = states ? states.stride[axis + 2] : 0;
    asm volatile("" : "+l"(stride));  // or else every element's address is kept in registers
    const int64_t first = states ? offset + head_ * states.stride[axis] : 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t row = row_ + lane_ / 4 + e / 2 * 8;
      int64_t n = lane_ % 4 * 2 + e % 2, at = first + row * row_stride + n * stride;
#pragma unroll
      for (int i = 0; i < N / 8; ++i) {
        f(h[i][e], busy_ && row < p_.width && n < p_.states, at);
        n += 8;
        at += 8 * stride;
      }
    }
  }

  const ForwardParams& p_;
  const CudaForwardPlan& plan_;
  const ForwardAccess& access_;
  int stages_;
  bool split_;
  Panel x_panel_;
  int lane_, warp_, unit_, tile_row_;
  uint32_t stage_bytes_, stage0_, mix_, x_lane_;
  Decays* decays_;
  int head_ = 0, row_ = 0;
  bool busy_ = false;
  float rate_ = 0.0f, bias_ = 0.0f;
  float skip_[2] = {};  // D of the lane's rows
};

// Part of a column of chunks.
struct Piece {
  int64_t column;      // (sequence, block of units), units fastest
  int64_t begin, end;  // chunks
};

// The slots' pieces lie in a row, column after column.
struct Slot {
  int64_t chunks;      // of a column
  int64_t begin, end;  // chunks of all columns

  __device__ Slot(const ForwardParams& p, const CudaForwardPlan& plan, int64_t blocks)
      : chunks(plan.slots > 0 ? (p.length + kChunk - 1) / kChunk : 1) {
    const int64_t share = plan.slots > 0 ? plan.share : 1;
    begin = blockIdx.x * share;
    end = min(p.sequences.count() * blocks * chunks, begin + share);
  }
  __device__ Piece first() const {
    return {begin / chunks, begin % chunks, min(chunks, begin % chunks + (end - begin))};
  }
  __device__ Piece last() const {
    const int64_t column = (end - 1) / chunks;
    return {column, max(int64_t{0}, begin - column * chunks), end - column * chunks};
  }
};

// State of a piece that does not start its column: handed over by the slot before, or made of what the column's pieces
// before it add.
template <class Work>
__device__ void load_piece_state(Work& work, const CudaForwardPlan& plan, int64_t first_slot) {
  const int64_t slot = blockIdx.x;
  if (plan.ready) {
    if (threadIdx.x == 0) device::wait_for_flag(&plan.ready[slot - 1]);
    __syncthreads();
    work.load_state({}, 0, 1);
    work.load_workspace(slot - 1, 0.0f);
    return;
  }
  const int unit = threadIdx.x / (plan.warps * device::kWarp);
  for (int64_t before = first_slot; before < slot; ++before) {
    work.load_workspace(before, plan.decays[before * plan.units + unit]);
  }
}

template <class Work>
__device__ void run_piece(Work& work, const ForwardParams& p, const CudaForwardPlan& plan,
                          const Slot& slot, const Piece& piece, int64_t blocks) {
  const int64_t s = piece.column / blocks;
  const UnitBlock block(p, piece.column % blocks, plan.units);
  const Sequences::Range range = p.sequences.range(s);
  work.enter(block);
  work.load_state(p.initial_state, p.initial_state.offset(s), 1);
  if (piece.begin > 0) load_piece_state(work, plan, piece.column * slot.chunks / plan.share);
  const bool last = piece.end == slot.chunks;
  work.run(block, range, piece.begin * kChunk, last ? range.length : piece.end * kChunk);
  if (last) {
    if (p.final_state) work.store_state(p.final_state, p.final_state.offset(s), 1);
  } else if (plan.ready) {
    work.store_workspace(blockIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) device::set_flag(&plan.ready[blockIdx.x]);
  }
}

// Forward with y. Without slots a block for every column, else one for every slot. A state that will be handed over is
// made first; blocks start in order, so the one that waits for it waits for a block that runs already.
template <class T, int N>
__global__ void __launch_bounds__(kForwardThreads<N>, 1)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ CudaForwardPlan plan,
                   const __grid_constant__ ForwardAccess access, int stages, bool split,
                   int64_t blocks) {
  extern __shared__ __align__(1024) char memory[];
  ForwardBlock<T, N, true> work(p, plan, access, stages, split, memory);
  Slot slot(p, plan, blocks);
  const bool ahead = plan.ready && slot.end % slot.chunks != 0;
  for (bool first = ahead; first || slot.begin < slot.end; first = false) {
    const Piece piece = first ? slot.last() : slot.first();
    run_piece(work, p, plan, slot, piece, blocks);
    (first ? slot.end : slot.begin) += (first ? -1 : 1) * (piece.end - piece.begin);
  }
}

// What the last piece of every slot adds to the state, where the next slot goes on with its column.
template <class T, int N>
__global__ void __launch_bounds__(kForwardThreads<N>, 1)
    pieces_kernel(const __grid_constant__ ForwardParams p,
                  const __grid_constant__ CudaForwardPlan plan,
                  const __grid_constant__ ForwardAccess access, int stages, bool split,
                  int64_t blocks) {
  extern __shared__ __align__(1024) char memory[];
  ForwardBlock<T, N, false> work(p, plan, access, stages, split, memory);
  const Slot slot(p, plan, blocks);
  const Piece piece = slot.last();
  if (piece.end == slot.chunks) return;
  const UnitBlock block(p, piece.column % blocks, plan.units);
  work.enter(block);
  work.load_state({}, 0, 1);
  work.run(block, p.sequences.range(piece.column / blocks), piece.begin * kChunk,
           piece.end * kChunk);
  work.store_workspace(blockIdx.x);
  const int threads = plan.warps * device::kWarp;  // of a unit
  if (threadIdx.x % threads == 0) {
    plan.decays[blockIdx.x * plan.units + threadIdx.x / threads] = work.piece_decay;
  }
}

}  // namespace hax::ssd
