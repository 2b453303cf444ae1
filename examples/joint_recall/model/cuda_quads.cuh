// Products of rows with small weights, whose operands and results stay in registers. A warp has 16 rows; a quad of
// lanes has rows r and r + 8 and holds 32 columns at a time, each lane an octet of both rows. Tensor cores don't care
// in which order columns are summed over or come out, so that octets serve as operands and as results alike.
#pragma once

#include "model/cuda_rows.cuh"

namespace joint_recall::cuda_quads {

using namespace cuda_rows;

constexpr int kGroup = 32;  // columns of a quad
constexpr int kTile = 16;   // rows of a warp
constexpr int kQuads = 8;   // of a warp
constexpr int kUnit = 8;    // elements of bf16 in 16 bytes

using Bf16Cells = OctetCells<__nv_bfloat16>;

struct OctetPair {
  Octet row[2];
};

// The lane's place, and its rows of the warp's tile.
struct Place {
  int64_t row[2];
  bool counts[2];  // rows beyond the last are read as the last, and nothing is written for them
  int column;      // of the lane's octet in a group
  int quad, lane, warp;

  __device__ explicit Place(int64_t rows) {
    warp = static_cast<int>(threadIdx.x) / kWarp;
    lane = static_cast<int>(threadIdx.x) % kWarp;
    quad = lane / 4;
    column = lane % 4 * kOctet;
    const int64_t first = (int64_t{blockIdx.x} * (blockDim.x / kWarp) + warp) * kTile + quad;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t own = first + i * kQuads;
      counts[i] = own < rows;
      row[i] = counts[i] ? own : rows - 1;
    }
  }
  // Over the columns of a row, from what the quad's lanes have.
  __device__ static float row_sum(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
  }
};

__device__ inline uint4 rounded(const Octet& octet) {
  uint32_t words[kOctet / 2];
#pragma unroll
  for (int i = 0; i < kOctet / 2; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(octet.at[2 * i], octet.at[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  return {words[0], words[1], words[2], words[3]};
}

// A group of both rows as the left operand.
struct Operand {
  uint4 row[2];
  __device__ static Operand of(const OctetPair& pair) {
    return {rounded(pair.row[0]), rounded(pair.row[1])};
  }
};

// d += a b of 16 x 16 by 16 x 8 elements, as lanes hold them.
__device__ inline void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                           uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Four blocks of 8 x 8 elements, each transposed; lane i names row i % 8 of block i / 8.
__device__ inline uint4 load_matrix_transposed(const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  uint4 to;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
               : "r"(address)
               : "memory");
  return to;
}

// 32 columns of a product.
struct Product {
  float sum[4][4] = {};

  // right: of tile t, as SharedWeight gives it.
  __device__ void add(int t, const Operand& left, const uint4& right) {
    mma(sum[t], left.row[0].x, left.row[1].x, left.row[0].y, left.row[1].y, right.x, right.y);
    mma(sum[t], left.row[0].z, left.row[1].z, left.row[0].w, left.row[1].w, right.z, right.w);
  }
  __device__ OctetPair octets() const {
    OctetPair pair;
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      pair.row[0].at[i] = sum[i / 2][i % 2];
      pair.row[1].at[i] = sum[i / 2][2 + i % 2];
    }
    return pair;
  }
};

__host__ __device__ inline int groups_of(int columns) { return (columns + kGroup - 1) / kGroup; }

// Rows of a weight in shared memory, `columns` of it in whole groups; the rest of a group is 0.
struct SharedWeight {
  uint4* memory;
  int groups;  // of columns

  __host__ __device__ static int64_t bytes(int rows, int columns) {
    return int64_t{groups_of(rows)} * kGroup * groups_of(columns) * kGroup * 2;
  }
};

__device__ inline uint4 weight_octet(const Bf16Cells& weight, int rows, int row, int octet) {
  if (row >= rows || octet * kOctet >= weight.columns) return {};
  return *reinterpret_cast<const uint4*>(weight.data + row * weight.stride + octet * kOctet);
}

// x W^T: rows of the weight are columns of the product. What fill() began is there after wait() and a barrier.
struct SharedRows : SharedWeight {
  // Banks: two neighbouring rows are read at once, 64 bytes of each.
  __device__ uint4* unit(int row, int group, int octet) const {
    const int place = groups % 2 == 0 ? group ^ (row & 1) : group;
    return memory + (row * groups + place) * 4 + octet;
  }
  __device__ void fill(const Bf16Cells& weight, int rows, int first, int count) const {
    const int octets = groups * 4;
    for (int i = static_cast<int>(threadIdx.x); i < groups_of(count) * kGroup * octets;
         i += blockDim.x) {
      const int row = i / octets, octet = i % octets;
      const bool there = row < count && first + row < rows && octet * kOctet < weight.columns;
      const __nv_bfloat16* from =
          there ? weight.data + (first + row) * weight.stride + octet * kOctet : weight.data;
      const auto to =
          static_cast<uint32_t>(__cvta_generic_to_shared(unit(row, octet / 4, octet % 4)));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                   "r"(there ? 16 : 0)
                   : "memory");
    }
  }
  __device__ static void wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
  // Right operand of tile t of output group q, over input group j.
  __device__ uint4 load(int lane, int q, int t, int j) const {
    const int g = lane / 4, row = q * kGroup + g / 2 * kOctet + 2 * t + g % 2;
    return *unit(row, j, lane % 4);
  }
};

// x W: rows of the weight are what is summed over. Pairs of columns lie in the order of the product's tiles.
struct SharedColumns : SharedWeight {
  static constexpr int kBatch = 4;  // loads under way at once
  // Banks: ldmatrix reads 16 bytes of eight rows that differ in bits 0, 3 and 4.
  __device__ uint4* unit(int row, int at) const {
    at ^= row >> 3 & 3;
    if (groups % 2 == 0) at ^= (row & 1) << 2;
    return memory + row * groups * 4 + at;
  }
  __device__ void fill(const Bf16Cells& weight, int rows, int first, int count) const {
    const int octets = groups * 4, end = groups_of(count) * kGroup * octets;
    const int threads = static_cast<int>(blockDim.x);
    for (int base = static_cast<int>(threadIdx.x); base < end; base += kBatch * threads) {
      uint4 from[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int i = base + b * threads, row = i / octets, octet = i % octets;
        from[b] = weight_octet(weight, rows, row < count ? first + row : rows, octet);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int i = base + b * threads, row = i / octets, octet = i % octets;
        if (i >= end) break;
        const uint32_t words[] = {from[b].x, from[b].y, from[b].z, from[b].w};
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          reinterpret_cast<uint32_t*>(unit(row, octet / 4 * 4 + t))[octet % 4] = words[t];
        }
      }
    }
  }
  __device__ uint4 load(int lane, int q, int t, int j) const {
    const int m = lane % 8, row = j * kGroup + m / 2 * kOctet + lane / 8 * 2 + m % 2;
    return load_matrix_transposed(unit(row, 4 * q + t));
  }
};

// Group q of x W^T or x W.
template <int kGroups, class Weight>
__device__ Product product(const Place& place, const Operand (&left)[kGroups], const Weight& right,
                           int q) {
  Product result;
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
#pragma unroll
    for (int t = 0; t < 4; ++t) result.add(t, left[j], right.load(place.lane, q, t, j));
  }
  return result;
}

// Sums over a warp's rows of an octet, left in `to`, a row of numbers for each warp.
__device__ inline void column_sums(const Place& place, const Octet& octet, float* to) {
  // Each exchange halves what a lane has left.
  float four[4], two[2], one;
  const int q = place.quad;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float kept = q & 4 ? octet.at[4 + i] : octet.at[i];
    four[i] = kept + __shfl_xor_sync(0xffffffffu, q & 4 ? octet.at[i] : octet.at[4 + i], 16);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float kept = q & 2 ? four[2 + i] : four[i];
    two[i] = kept + __shfl_xor_sync(0xffffffffu, q & 2 ? four[i] : four[2 + i], 8);
  }
  one = (q & 1 ? two[1] : two[0]) + __shfl_xor_sync(0xffffffffu, q & 1 ? two[0] : two[1], 4);
  to[place.column + (q & 4) + (q & 2) + (q & 1)] = one;
}

// Adds up the warps' rows of numbers into the block's.
__device__ inline void block_sums(const float* warps, int width, float* partial) {
  __syncthreads();
  const int count = static_cast<int>(blockDim.x) / kWarp;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += blockDim.x) {
    float sum = 0.0f;
    for (int w = 0; w < count; ++w) sum += warps[w * width + i];
    partial[int64_t{blockIdx.x} * width + i] = sum;
  }
}

}  // namespace joint_recall::cuda_quads
