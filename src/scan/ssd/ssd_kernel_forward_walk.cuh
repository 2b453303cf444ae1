// The walk of ssd's forward along a sequence: what is fetched, made and awaited when.
#pragma once

#include "scan/ssd/ssd_kernel_forward_block.cuh"

namespace hax::ssd {

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::enter(const UnitBlock& block) {
  group_ = block.group;
  count_ = block.count;
  if (threadIdx.x < plan_.units) {
    const int64_t index = block.first + min(static_cast<int>(threadIdx.x), block.count - 1);
    BlockUnit& unit = units_[threadIdx.x];
    unit.head = static_cast<int>(index / slices(p_.width));
    unit.first = static_cast<int>(index % slices(p_.width)) * kSliceRows;
    unit.columns = min(kSliceRows, static_cast<int>(p_.width) - unit.first);
    unit.x = unit.head * p_.x.stride[2] + unit.first * p_.x.stride[3];
    unit.rate = *p_.A.at<float>(unit.head) * device::kLog2E;
    unit.bias = p_.dt_bias ? *p_.dt_bias.at<float>(unit.head) : 0.0f;
  }
  __syncthreads();
  head = units_[unit_].head;
  row = units_[unit_].first + tile_row_;
  busy = unit_ < count_;
  piece_decay = 1.0f;
  for (int i = 0; i < 2 && p_.D; ++i) {
    const int64_t own = min(int64_t{row + lane_ / 4 + 8 * i}, p_.width - 1);
    skip_[i] = p_.D.ndim == 2 ? *p_.D.at<float>(head, own) : *p_.D.at<float>(head);
  }
}

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::run(const Sequences::Range& range, int64_t begin,
                                                 int64_t end) {
  const bool ahead = kOutput && stages_.ahead();
  // The last warps make the decays: there are fewer blocks of the mix than warps, so they have less to do.
  const int decays_unit = blockDim.x / device::kWarp - 1 - warp_;
  RawSteps raw;
  const auto load_raw = [&](const Chunk& chunk) {
    if (decays_unit >= count_) return;
    raw.load(p_, range.row, range.begin + chunk.begin, chunk.tokens, units_[decays_unit].head);
  };
  const auto make = [&](const Chunk& chunk) {
    if (decays_unit >= count_) return;
    const BlockUnit& unit = units_[decays_unit];
    make_decays<kOutput>(decays(chunk, decays_unit), p_, raw, chunk.tokens, unit.rate, unit.bias);
  };
  Chunk chunk{begin, chunk_tokens<false>(p_.checkpoints, begin, end), 0, 0, 0};
  Chunk next = after(chunk, end);
  load_states(chunk, range);
  load_inputs(chunk, range);
  load_raw(chunk);
  make(chunk);
  if (ahead) {
    load_states(next, range);
    load_raw(next);
    make(next);
    meet();
    make_mix(chunk, count_);
  }
  while (chunk.tokens > 0) {
    meet();
    const Chunk later = after(next, end);
    if (stages_.states > 1) {
      load_states(ahead ? later : next, range);
      load_inputs(next, range);
    }
    load_raw(ahead ? later : next);
    if (kOutput && !ahead) {
      make_mix(chunk, count_);
      meet();
    }
    if (busy) {
      if (kOutput) {
        outputs(chunk, range.row, range.begin + chunk.begin);
      } else {
        uint32_t x[kBlocks][4];
        load_x(x, chunk);
        advance(x, chunk);
        wait_for_products<0>();
      }
      if (p_.checkpoints && next.begin % p_.checkpoints.every == 0 && kOutput) {
        this->store_state(p_, p_.checkpoints.states, p_.checkpoints.offset(range, next.begin), 2);
      }
    }
    if (ahead && next.tokens > 0) make_mix(next, count_);
    make(ahead ? later : next);
    if (stages_.states == 1) {
      __syncthreads();
      load_states(next, range);
      load_inputs(next, range);
    }
    chunk = next;
    next = ahead ? later : after(next, end);
  }
  device::wait_for_copies<0>();
  __syncthreads();
}

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::load_states(const Chunk& chunk,
                                                         const Sequences::Range& range) {
  constexpr int kPart = N < 128 ? N : 128;  // states that are loaded together
  constexpr int kShift = kPart == 64 ? 3 : 4;
  const auto load = [&](uint32_t tile, const Tensor& from) {
#pragma unroll
    for (int first = 0; first < N; first += kPart) {
      load_tile<kThreads, kShift, T>(
          threadIdx.x, tile + first * kChunk * 2, state_panel(),
          from.at<T>(range.row, range.begin + chunk.begin, group_, first), from.stride[1],
          from.stride[3], static_cast<int>(p_.states) - first, chunk.tokens, access_.states);
    }
  };
  if (chunk.tokens == 0) return;
  load(B_tile(chunk), p_.B);
  if (kOutput) load(C_tile(chunk), p_.C);
  device::commit_copies();
}

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::load_inputs(const Chunk& chunk,
                                                         const Sequences::Range& range) {
  const T* const token = p_.x.at<T>(range.row, range.begin + chunk.begin);
#pragma unroll 1
  for (int u = 0; u < count_ && chunk.tokens > 0; ++u) {
    load_tile<kThreads, 3, T>(threadIdx.x, x_tile(chunk, u), x_panel(), token + units_[u].x,
                              p_.x.stride[1], p_.x.stride[3], units_[u].columns, chunk.tokens,
                              access_.x);
  }
  device::commit_copies();
}

}  // namespace hax::ssd
