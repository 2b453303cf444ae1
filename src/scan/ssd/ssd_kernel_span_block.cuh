// The thread block of ssd's forward that takes a span of chunks at once. A warp has a unit's part of a chunk: what it adds
// to the state, then, when the state has passed through the span, its y.
#pragma once

#include "scan/ssd/ssd_kernel_forward_shares.cuh"
#include "scan/ssd/ssd_kernel_mix.cuh"
#include "scan/ssd/ssd_kernel_output_tokens.cuh"
#include "scan/ssd/ssd_kernel_span_memory.cuh"

namespace hax::ssd {

template <class T, int Pairs, Pass kPass>
class SpanBlock {
 public:
  static constexpr bool kOutput = kPass != Pass::states, kPlain = kPass == Pass::plain_outputs;
  using Memory = SpanMemory<Pairs>;

  __device__ SpanBlock(const ForwardParams& p, const CudaForwardPlan& plan,
                       const ForwardAccess& access, bool split, char* memory)
      : p_(p),
        plan_(plan),
        access_(access),
        split_(split),
        memory_(memory, plan),
        chunk_(threadIdx.x / device::kWarp / plan.units),
        unit_(threadIdx.x / device::kWarp % plan.units) {}

  __device__ void enter(const UnitBlock& block) {
    block_ = block;
    const int64_t index = block.first + min(unit_, block.count - 1);
    head_ = static_cast<int>(index / ceil_div(p_.width, Memory::kRows));
    first_row_ = static_cast<int>(index % ceil_div(p_.width, Memory::kRows)) * Memory::kRows;
    rate_ = *p_.A.at<float>(head_) * device::kLog2E;
    bias_ = p_.dt_bias ? *p_.dt_bias.at<float>(head_) : 0.0f;
    skip_ = p_.D && p_.D.ndim == 1 ? *p_.D.at<float>(head_) : 0.0f;
    if (threadIdx.x < plan_.units) memory_.piece_decay(threadIdx.x) = 1.0f;
  }

  // Tokens [begin, end) of a sequence; the carry is the state before and after. Starts and ends with all threads in step.
  __device__ void run(const Sequences::Range& range, int64_t begin, int64_t end);

  // The carry, from and to tensors (sequences, H, P, N); 0 where `states` is none.
  __device__ void load_carry(const Tensor& states, int64_t offset) {
    each_carry([&](float& value, int, int head, int row, int n) {
      value = states ? device::load_any(states, offset + at(states, 1, head, row, n)) : 0.0f;
    });
    __syncthreads();
  }
  __device__ void store_carry(const Tensor& states, int64_t offset) {
    each_carry([&](float& value, int, int head, int row, int n) {
      device::store_any(states, offset + at(states, 1, head, row, n), value);
    });
  }
  // States of slots in the workspace: the carry decays as over the slot's piece and the slot's is added, or replaces it.
  __device__ void add_workspace(int64_t slot, bool replaces) {
    each_carry([&](float& value, int unit, int, int row, int n) {
      const float other = __ldcg(&plan_.states[workspace_at(slot, unit, row, n)]);
      value = (replaces ? 0.0f : value * __ldcg(&plan_.decays[slot * plan_.units + unit])) + other;
    });
    __syncthreads();
  }
  __device__ void store_workspace(int64_t slot) {
    each_carry([&](float& value, int unit, int, int row, int n) {
      plan_.states[workspace_at(slot, unit, row, n)] = value;
    });
    if (!kOutput && threadIdx.x < plan_.units) {
      plan_.decays[slot * plan_.units + threadIdx.x] = memory_.piece_decay(threadIdx.x);
    }
  }

 private:
  // A chunk of the span; without tokens behind the end.
  struct Chunk {
    int64_t begin;
    int tokens;
  };
  __device__ Chunk chunk_at(int64_t t, int64_t end, int index) const {
    Chunk chunk{t, 0};
    for (int k = 0; k <= index; ++k) {
      chunk.begin += chunk.tokens;
      chunk.tokens = chunk.begin < end ? chunk_tokens<kPlain>(p_.checkpoints, chunk.begin, end) : 0;
    }
    return chunk;
  }

  __device__ void load(const Sequences::Range& range, const Chunk& chunk) const;

  // What the chunk adds to the unit's state.
  __device__ void add_up() const;

  // The state passes through the span's chunks; each is left the state before it.
  __device__ void pass_state();

  // The states behind the span's chunks, where checkpoints are.
  __device__ void store_checkpoints(const Sequences::Range& range, int64_t t, int64_t end);

  __device__ void outputs(const Sequences::Range& range, const Chunk& chunk) const;

  // Calls f(carry, unit, head, row of the head, state) for what a block has of tensors.
  template <class F>
  __device__ void each_carry(F&& f) {
    each_element([&](int unit) { return memory_.carry(unit); }, f);
  }
  // The same for the states that place(unit) has.
  template <class Place, class F>
  __device__ void each_element(Place&& place, F&& f) {
    const int all = block_.count * Memory::kRows * kLeastStates;
    for (int i = threadIdx.x; i < all; i += blockDim.x) {
      const int n = i % kLeastStates, own = i / kLeastStates % Memory::kRows;
      const int unit = i / (kLeastStates * Memory::kRows);
      const int64_t index = block_.first + unit, in_head = ceil_div(p_.width, Memory::kRows);
      const int row = static_cast<int>(index % in_head) * Memory::kRows + own;
      float& value = place(unit)[own * kStateStride + n];
      if (row < p_.width && n < p_.states) {
        f(value, unit, static_cast<int>(index / in_head), row, n);
      } else {
        value = 0.0f;
      }
    }
  }
  __device__ static int64_t at(const Tensor& states, int axis, int head, int row, int n) {
    return head * states.stride[axis] + row * states.stride[axis + 1] + n * states.stride[axis + 2];
  }
  __device__ int64_t workspace_at(int64_t slot, int unit, int row, int n) const {
    return ((slot * plan_.units + unit) * Memory::kRows + row % Memory::kRows) * kLeastStates + n;
  }

  const ForwardParams& p_;
  const CudaForwardPlan& plan_;
  const ForwardAccess& access_;
  bool split_;
  Memory memory_;
  int chunk_, unit_;  // of this warp
  UnitBlock block_;
  int head_ = 0, first_row_ = 0;
  float rate_ = 0.0f, bias_ = 0.0f, skip_ = 0.0f;
};

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::run(const Sequences::Range& range, int64_t begin,
                                                int64_t end) {
  const bool busy = unit_ < block_.count;
  for (int64_t t = begin; t < end;) {
    const Chunk chunk = chunk_at(t, end, chunk_);
    const Chunk last = chunk_at(t, end, plan_.chunks - 1);
    load(range, chunk);
    device::commit_copies();
    if (busy) {
      RawSteps raw;
      raw.load(p_, range.row, range.begin + chunk.begin, chunk.tokens, head_);
      make_decays<kOutput>(memory_.decays(chunk_, unit_), p_, raw, chunk.tokens, rate_, bias_);
    }
    device::wait_for_copies<0>();
    __syncthreads();
    if (busy) add_up();
    __syncthreads();
    pass_state();
    __syncthreads();
    if (kPass == Pass::outputs && p_.checkpoints) store_checkpoints(range, t, end);
    if (kOutput && busy && chunk.tokens > 0) outputs(range, chunk);
    if (kOutput) __syncthreads();
    t = last.begin + last.tokens;
  }
}

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::load(const Sequences::Range& range,
                                                 const Chunk& chunk) const {
  const int lane = threadIdx.x % device::kWarp;
  const int64_t token = range.begin + chunk.begin;
  const auto load_states = [&](uint32_t tile, const Tensor& from) {
    load_tile<device::kWarp, 2, T>(lane, tile, Panel{4}, from.at<T>(range.row, token, block_.group),
                                   from.stride[1], from.stride[3], static_cast<int>(p_.states),
                                   chunk.tokens, kPlain || access_.states);
  };
  if (unit_ == 0) load_states(memory_.B(chunk_), p_.B);
  if (kOutput && unit_ == plan_.units - 1) load_states(memory_.C(chunk_), p_.C);
  if (unit_ >= block_.count) return;
  load_tile<device::kWarp, Pairs, T>(lane, memory_.x(chunk_, unit_), Panel{2 * Pairs},
                                     p_.x.at<T>(range.row, token, head_, first_row_),
                                     p_.x.stride[1], p_.x.stride[3],
                                     min(Memory::kRows, static_cast<int>(p_.width) - first_row_),
                                     chunk.tokens, kPlain || access_.x);
}

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::add_up() const {
  const MatrixPlace B_place(Panel{4}, false), x_place(Panel{2 * Pairs}, true);
  const uint32_t B_tile = memory_.B(chunk_), x_tile = memory_.x(chunk_, unit_);
  const float* const weights = memory_.decays(chunk_, unit_).weight;
  float sums[Pairs][kLeastStates / 8][4] = {};
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    uint32_t B[2][4];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      device::load_matrix_x4_transposed(B[k], B_tile + j * kBlock * 64 + B_place.at(k));
    }
#pragma unroll
    for (int q = 0; q < Pairs; ++q) {
      uint32_t x[4], weighted[4];
      device::load_matrix_x4_transposed(x, x_tile + j * kBlock * Pairs * 32 + x_place.at(q));
#pragma unroll 1
      for (int part = 0; part < (split_ ? 2 : 1); ++part) {
        weigh_inputs<T>(weighted, x, weights + j * kBlock, part);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          device::mma_16x8x16<T>(sums[q][2 * k], weighted, {B[k][0], B[k][1]});
          device::mma_16x8x16<T>(sums[q][2 * k + 1], weighted, {B[k][2], B[k][3]});
        }
      }
    }
  }
  const int lane = threadIdx.x % device::kWarp, r = lane / 4, c = lane % 4;
  float* const to = memory_.state(chunk_, unit_) + r * kStateStride + 2 * c;
#pragma unroll
  for (int q = 0; q < Pairs; ++q) {
#pragma unroll
    for (int i = 0; i < kLeastStates / 8; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(to + (16 * q + 8 * half) * kStateStride + 8 * i) = {
            sums[q][i][2 * half], sums[q][i][2 * half + 1]};
      }
    }
  }
}

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::pass_state() {
  constexpr int kQuads = kLeastStates / 4, kOfUnit = Memory::kRows * kQuads;
  for (int i = threadIdx.x; i < block_.count * kOfUnit; i += blockDim.x) {
    const int unit = i / kOfUnit, own = i / kQuads % Memory::kRows, n = i % kQuads * 4;
    const int place = own * kStateStride + n;
    float4& carry = *reinterpret_cast<float4*>(memory_.carry(unit) + place);
    float4 h = carry;
#pragma unroll 4
    for (int k = 0; k < plan_.chunks; ++k) {
      float4& state = *reinterpret_cast<float4*>(memory_.state(k, unit) + place);
      const float4 added = state;
      const float whole = memory_.decays(k, unit).whole;
      state = h;
      h = {h.x * whole + added.x, h.y * whole + added.y, h.z * whole + added.z,
           h.w * whole + added.w};
    }
    carry = h;
  }
  if (threadIdx.x < plan_.units) {
    for (int k = 0; k < plan_.chunks; ++k) {
      memory_.piece_decay(threadIdx.x) *= memory_.decays(k, threadIdx.x).whole;
    }
  }
}

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::store_checkpoints(const Sequences::Range& range,
                                                              int64_t t, int64_t end) {
  const Tensor& states = p_.checkpoints.states;
  for (int k = 0; k < plan_.chunks; ++k) {
    const Chunk chunk = chunk_at(t, end, k);
    const int64_t done = chunk.begin + chunk.tokens;
    if (chunk.tokens == 0 || done % p_.checkpoints.every != 0) continue;
    const int64_t offset = p_.checkpoints.offset(range, done);
    const bool last = k + 1 == plan_.chunks;
    each_element([&](int unit) { return last ? memory_.carry(unit) : memory_.state(k + 1, unit); },
                 [&](float& value, int, int head, int row, int n) {
                   device::store_any(states, offset + at(states, 2, head, row, n), value);
                 });
  }
}

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::outputs(const Sequences::Range& range,
                                                    const Chunk& chunk) const {
  const int lane = threadIdx.x % device::kWarp, r = lane / 4, c = lane % 4;
  const MatrixPlace rows_first(Panel{4}, false), groups_first(Panel{4}, true);
  const MatrixPlace x_place(Panel{2 * Pairs}, true);
  const uint32_t B_tile = memory_.B(chunk_), C_tile = memory_.C(chunk_);
  const uint32_t x_tile = memory_.x(chunk_, unit_);
  const Decays& d = memory_.decays(chunk_, unit_);
  // The state before the chunk as right operands: 16 states by 8 rows of the head twice.
  uint32_t h[Pairs][2][4];
  const float* const state = memory_.state(chunk_, unit_) + r * kStateStride + 2 * c;
#pragma unroll
  for (int q = 0; q < Pairs; ++q) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = *reinterpret_cast<const float2*>(
            state + (16 * q + i / 2 * 8) * kStateStride + 16 * k + i % 2 * 8);
        h[q][k][i] = device::pack_pair<T>(pair.x, pair.y);
      }
    }
  }
  const OutputTokens<T, Pairs, kPlain> away{p_, access_, head_, first_row_};
  T* const y_at = away.lane_start(p_.y, range.row, range.begin + chunk.begin);
  // From the last sub-block to the first: y takes the place of x that none before it needs.
#pragma unroll 1
  for (int i = (chunk.tokens - 1) / kBlock; i >= 0; --i) {
    uint32_t C[2][4];
    float y[2 * Pairs][4] = {};
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      device::load_matrix_x4(C[k], C_tile + i * kBlock * 64 + rows_first.at(k));
#pragma unroll
      for (int q = 0; q < Pairs; ++q) {
        device::mma_16x8x16<T>(y[2 * q], C[k], {h[q][k][0], h[q][k][1]});
        device::mma_16x8x16<T>(y[2 * q + 1], C[k], {h[q][k][2], h[q][k][3]});
      }
    }
    const float from_start[2] = {d.from_start[i * kBlock + r], d.from_start[i * kBlock + r + 8]};
#pragma unroll
    for (int q = 0; q < 2 * Pairs; ++q) {
#pragma unroll
      for (int e = 0; e < 4; ++e) y[q][e] *= from_start[e / 2];
    }
    // y takes in sub-block j, weighed by `weigh`.
    const auto take_in = [&](int j, auto&& weigh) {
      float scores[2][4] = {};
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        uint32_t B[4];
        device::load_matrix_x4(B, B_tile + j * kBlock * 64 + groups_first.at(k));
        device::mma_16x8x16<T>(scores[0], C[k], {B[0], B[1]});
        device::mma_16x8x16<T>(scores[1], C[k], {B[2], B[3]});
      }
      uint32_t mix[4];
      weigh(mix, scores);
#pragma unroll
      for (int q = 0; q < Pairs; ++q) {
        uint32_t x[4];
        device::load_matrix_x4_transposed(x, x_tile + j * kBlock * Pairs * 32 + x_place.at(q));
        device::mma_16x8x16<T>(y[2 * q], mix, {x[0], x[2]});
        device::mma_16x8x16<T>(y[2 * q + 1], mix, {x[1], x[3]});
      }
    };
    take_in(i, [&](auto& mix, auto& scores) { weigh_own_scores<T>(mix, scores, d, i, skip_); });
    float gap = 0.0f;
#pragma unroll 1
    for (int j = i - 1; j >= 0; --j) {
      take_in(j, [&](auto& mix, auto& scores) { weigh_scores<T>(mix, scores, d, i, j, gap); });
      gap += d.block[j];
    }
    const int first = i * kBlock;
    away.finish(y, x_tile + first * Pairs * 32, y_at + first * p_.y.stride[1], range.row,
                range.begin + chunk.begin + first, chunk.tokens - first);
  }
}

}  // namespace hax::ssd
