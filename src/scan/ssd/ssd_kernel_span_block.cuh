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

}  // namespace hax::ssd
