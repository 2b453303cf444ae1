// The thread block of ssd's forward for 16-bit activations: it walks one sequence's units of work, a chunk of 64 tokens at a
// time. Its larger parts are defined in ssd_kernel_forward_mix.cuh, _outputs.cuh, _products.cuh and _walk.cuh.
#pragma once

#include "device/warpgroup.cuh"
#include "scan/ssd/ssd_kernel_forward_memory.cuh"
#include "scan/ssd/ssd_kernel_forward_shares.cuh"
#include "scan/ssd/ssd_kernel_forward_state.cuh"

namespace hax::ssd {

template <class T, int N, bool kOutput>
class ForwardBlock : public UnitState<N> {
 public:
  using UnitState<N>::h;
  using UnitState<N>::head;
  using UnitState<N>::row;
  using UnitState<N>::busy;

  __device__ ForwardBlock(const ForwardParams& p, const CudaForwardPlan& plan,
                          const ForwardAccess& access, Stages stages, bool split, char* memory)
      : p_(p),
        plan_(plan),
        access_(access),
        stages_(stages),
        split_(split),
        lane_(threadIdx.x % device::kWarp),
        warp_(threadIdx.x / device::kWarp),
        unit_(warp_ / kUnitWarps),
        tile_row_(warp_ % kUnitWarps * kTileRows) {
    const MatrixPlace place(x_panel(), true);
    x_lane_ = place.row + (place.group ^ (tile_row_ * 2));
    const uint32_t base = device::shared_address(memory);
    states_ = base;
    inputs_ = states_ + stages.states * kStageBytes;
    input_bytes_ = plan.units * x_panel().bytes();
    mix_ = inputs_ + stages.inputs() * input_bytes_;
    const int mix_bytes = kOutput ? stages.mixes() * plan.units * kMixBytes : 0;
    decays_ = reinterpret_cast<Decays*>(memory + (mix_ + mix_bytes - base));
    units_ = reinterpret_cast<BlockUnit*>(decays_ + stages.decays() * plan.units);
    if (kWarpgroups) {
      for (int i = threadIdx.x * 4; i < mix_bytes; i += blockDim.x * 4) {
        device::store_shared(mix_ + i, 0u);
      }
    }
  }

  // Takes up a block's units; all threads call it while they are in step.
  __device__ void enter(const UnitBlock& block);

  // Tokens [begin, end) of a sequence; h is the state before and after. Ends with all threads in step.
  __device__ void run(const Sequences::Range& range, int64_t begin, int64_t end);

  float piece_decay;  // of the state over what run() went through

 private:
  // Products by warpgroups, a unit each; a product for all tokens then. They read mix above its diagonal too.
  static constexpr bool kWarpgroups = device::kWarpgroupProducts;
  static constexpr int kTogether = kWarpgroups ? kChunk : 32;  // tokens of y held at a time
  static constexpr int kPanelBytes = kChunk * 128;
  static constexpr int kStateBytes = kChunk * N * 2;
  static constexpr int kStageBytes = (kOutput ? 2 : 1) * kStateBytes;
  static constexpr int kMixBytes = kChunk * kChunk * 2;
  __device__ static constexpr Panel state_panel() { return {8}; }
  __device__ static constexpr Panel mix_panel() { return {8}; }
  __device__ static constexpr Panel x_panel() { return {8}; }

  // Tokens that are taken together, 0 behind the last ones, and where a block keeps what belongs to them.
  struct Chunk {
    int64_t begin;
    int tokens;
    int states, half,
        decays;  // stage of B and C; of x and the mix, where there are two; of the decays
  };
  __device__ Chunk after(const Chunk& chunk, int64_t end) const {
    const int64_t begin = chunk.begin + chunk.tokens;
    const auto turn = [](int stage, int count) { return stage + 1 < count ? stage + 1 : 0; };
    return {begin, begin < end ? chunk_tokens<false>(p_.checkpoints, begin, end) : 0,
            turn(chunk.states, stages_.states), chunk.half ^ 1,
            turn(chunk.decays, stages_.decays())};
  }

  // All copies have arrived and all that was written to shared memory can be read by all.
  __device__ static void meet() {
    device::wait_for_copies<0>();
    device::publish_to_products();
    __syncthreads();
  }

  __device__ Decays& decays(const Chunk& chunk, int unit) const {
    return decays_[chunk.decays * plan_.units + unit];
  }
  __device__ Decays& decays(const Chunk& chunk) const { return decays(chunk, unit_); }
  // Shared addresses.
  __device__ uint32_t B_tile(const Chunk& chunk) const {
    return states_ + chunk.states * kStageBytes;
  }
  __device__ uint32_t C_tile(const Chunk& chunk) const { return B_tile(chunk) + kStateBytes; }
  __device__ uint32_t x_tile(const Chunk& chunk, int unit) const {
    return inputs_ + (stages_.inputs() > 1 ? chunk.half * input_bytes_ : 0) +
           unit * x_panel().bytes();
  }
  __device__ uint32_t mix_tile(const Chunk& chunk, int unit) const {
    return mix_ + ((stages_.ahead() ? chunk.half * plan_.units : 0) + unit) * kMixBytes;
  }

  static constexpr int kThreads = chunk_units(N) * kUnitWarps * device::kWarp;
  __device__ void load_states(const Chunk& chunk, const Sequences::Range& range);
  __device__ void load_inputs(const Chunk& chunk, const Sequences::Range& range);

  // Fragments of 16 rows of a tile of B or C, states 16 k .. 16 k + 15.
  __device__ static uint32_t states_at(uint32_t tile, const MatrixPlace& place, int first_row,
                                       int k) {
    constexpr int kPairs = state_panel().groups / 2;  // of groups in a panel
    return tile + place.at(k % kPairs) + k / kPairs * state_panel().bytes() +
           first_row * state_panel().groups * 16;
  }

  // mix[t][s] = decay from s to t, times dt_s, times C_t . B_s, for every unit; lower blocks of 16 x 16 only.
  __device__ void make_mix(const Chunk& chunk, int units);

  // The warp's rows of x as left operands, block j: rows of the state by tokens 16 j .. 16 j + 15.
  __device__ void load_x(uint32_t (&x)[kBlocks][4], const Chunk& chunk) {
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
      device::load_matrix_x4_transposed(x[j], x_place(chunk, j * kBlock));
    }
  }

  // Where a lane's row of the blocks of tokens first .. first + 15 and the warp's 16 columns lies.
  __device__ uint32_t x_place(const Chunk& chunk, int first) const {
    return x_tile(chunk, unit_) + first * x_panel().groups * 16 + x_lane_;
  }

  // y of the chunk and the state behind it. The warp's columns of the tile of x, whose content is in registers by then,
  // take y on its way out.
  __device__ void outputs(const Chunk& chunk, int64_t row, int64_t token);

  // x, and z into its place.
  __device__ void load_operands(uint32_t (&x)[kBlocks][4], const Chunk& chunk, int64_t row,
                                int64_t token);

  // y += C h
  __device__ void add_from_state(float (&y)[kTogether / 8][4], const Chunk& chunk, int first);

  // y += mix x; products of warpgroups are only begun.
  __device__ void add_from_tokens(float (&y)[kTogether / 8][4], const uint32_t (&x)[kBlocks][4],
                                  const Chunk& chunk, int first);

  // The decays of what the state gives, and the skip. A left operand of rows by tokens and y hold the same elements.
  __device__ void weigh_outputs(float (&y)[kTogether / 8][4], const uint32_t (&x)[kBlocks][4],
                                const Decays& d, int first);

  // The gate, then y into the place of x.
  __device__ void finish(float (&y)[kTogether / 8][4], const Chunk& chunk, int first);

  // What this lane's columns of a fragment, tokens first + 2 c and + 1, need of an array.
  __device__ float2 pair_of(const float (&values)[kChunk], int first) const {
    return *reinterpret_cast<const float2*>(&values[first + lane_ % 4 * 2]);
  }

  // Moves the warp's columns between a tensor and the tile of x: move(global, shared) for elements of T or 16 bytes.
  template <class Move>
  __device__ void move_rows(const Tensor& tensor, bool vectors, const Chunk& chunk, int64_t row,
                            int64_t token, Move&& move);

  // h = decay h + x^T (weight B) over the chunk.
  __device__ void advance(uint32_t (&x)[kBlocks][4], const Chunk& chunk) {
    forget_derived(x);
    const float whole = decays(chunk).whole;
    piece_decay *= whole;
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) h[i][e] *= whole;
    }
    add_to_state(x, chunk, false);
    if (!split_) return;
    wait_for_products<0>();
    forget_derived(x);
    add_to_state(x, chunk, true);
  }

  template <int Pending>
  __device__ static void wait_for_products() {
    if constexpr (kWarpgroups) device::wait_for_products<Pending>();
  }

  // x times its tokens' weights, rounded to T; or what the rounding left.
  __device__ void weigh(uint32_t (&to)[kBlocks][4], const uint32_t (&x)[kBlocks][4],
                        const Decays& d, bool rest);

  // h += x^T B; products of warpgroups are only begun.
  __device__ void add_to_state(const uint32_t (&x)[kBlocks][4], const Chunk& chunk, bool rest);

  const ForwardParams& p_;
  const CudaForwardPlan& plan_;
  const ForwardAccess& access_;
  Stages stages_;
  bool split_;
  int lane_, warp_, unit_, tile_row_;
  uint32_t states_, inputs_, input_bytes_, mix_, x_lane_;
  Decays* decays_;
  BlockUnit* units_;
  int64_t group_ = 0;
  int count_ = 0;       // units of the block
  float skip_[2] = {};  // D of the lane's rows
};

}  // namespace hax::ssd
