// Matrix products of one warp: 16 queries against a step's keys. Scores and outputs lie in fragments of 16 x 8:
// lane 4 r + c holds (r, 2c), (r, 2c + 1), (r + 8, 2c), (r + 8, 2c + 1) of each.
#pragma once

#include "device/element.cuh"
#include "device/mma.cuh"

namespace hax::sparse_attention {

template <int B>
__device__ void mark_chosen(float (&chosen)[B][4], const float (&p)[B][4]) {
#pragma unroll
  for (int n = 0; n < B; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) chosen[n][e] = p[n][e] > 0.0f ? 1.0f : 0.0f;
  }
}

// Outputs that met `ups` values of +infinity or NaN and `downs` of -infinity or NaN.
__device__ inline void add_infinities(float (&out)[4], const float (&ups)[4],
                                      const float (&downs)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (ups[e] > 0.0f) out[e] += INFINITY;
    if (downs[e] > 0.0f) out[e] -= INFINITY;
  }
}

// 16-bit types. Strides are those of rows in shared memory.
template <class T>
struct WarpProducts {
  // Keys that a product over keys takes at a time.
  static constexpr int kDepth = 16;

  // scores += queries keys^T over kColumns columns, a multiple of 16. queries: the warp's first row.
  template <int kColumns, int stride, int B>
  __device__ static void scores(float (&s)[B][4], const T* queries, const T* keys, int lane) {
    const T* a_row = queries + (lane % 16) * stride + lane / 16 * 8;
    const T* b_row = keys + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < kColumns; k += 16) {
      uint32_t a[4];
      device::load_matrix_x4(a, a_row + k);
#pragma unroll
      for (int n = 0; n < B; n += 2) {
        uint32_t b[4];
        device::load_matrix_x4(b, b_row + n * 8 * stride + k);
        device::mma_16x8x16<T>(s[n], a, {b[0], b[1]});
        device::mma_16x8x16<T>(s[n + 1], a, {b[2], b[3]});
      }
    }
  }

  // The probabilities of 16 keys, fragments 2 k and 2 k + 1, as an operand.
  template <int B>
  __device__ static void operand(uint32_t (&a)[4], const float (&p)[B][4], int k) {
    a[0] = device::pack_pair<T>(p[2 * k][0], p[2 * k][1]);
    a[1] = device::pack_pair<T>(p[2 * k][2], p[2 * k][3]);
    a[2] = device::pack_pair<T>(p[2 * k + 1][0], p[2 * k + 1][1]);
    a[3] = device::pack_pair<T>(p[2 * k + 1][2], p[2 * k + 1][3]);
  }

  // out += p values. load(b, k, n): operands of keys 16 k and on, columns 8 n and on, two fragments of 8 columns.
  template <int B, int C, class Load>
  __device__ static void outputs(float (&out)[C][4], const float (&p)[B][4], Load&& load) {
#pragma unroll
    for (int k = 0; k < B / 2; ++k) {
      uint32_t a[4];
      operand(a, p, k);
#pragma unroll
      for (int n = 0; n < C; n += 2) {
        uint32_t b[4];
        load(b, k, n);
        device::mma_16x8x16<T>(out[n], a, {b[0], b[1]});
        device::mma_16x8x16<T>(out[n + 1], a, {b[2], b[3]});
      }
    }
  }

  // The same where some values aren't finite, which must not reach rows whose probability is 0.
  template <int B, int C, class Load>
  __device__ static void outputs_with_infinities(float (&out)[C][4], const float (&p)[B][4],
                                                 Load&& load) {
    float chosen[B][4];
    mark_chosen(chosen, p);
#pragma unroll
    for (int k = 0; k < B / 2; ++k) {
      uint32_t a[4], ones[4];
      operand(a, p, k);
      operand(ones, chosen, k);
#pragma unroll
      for (int n = 0; n < C; n += 2) {
        uint32_t b[4];
        load(b, k, n);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          uint32_t up[2], down[2];
#pragma unroll
          for (int i = 0; i < 2; ++i) take_infinities(b[2 * m + i], up[i], down[i]);
          device::mma_16x8x16<T>(out[n + m], a, {b[2 * m], b[2 * m + 1]});
          float ups[4] = {}, downs[4] = {};
          device::mma_16x8x16<T>(ups, ones, up);
          device::mma_16x8x16<T>(downs, ones, down);
          add_infinities(out[n + m], ups, downs);
        }
      }
    }
  }

  // Both with values in rows of shared memory.
  template <int stride>
  __device__ static auto rows_of(const T* values, int lane) {
    const T* const row = values + (lane % 16) * stride + lane / 16 * 8;
    return [row](uint32_t(&b)[4], int k, int n) {
      device::load_matrix_x4_transposed(b, row + k * 16 * stride + n * 8);
    };
  }
  template <int stride, int B, int C>
  __device__ static void outputs(float (&out)[C][4], const float (&p)[B][4], const T* values,
                                 int lane) {
    outputs(out, p, rows_of<stride>(values, lane));
  }
  template <int stride, int B, int C>
  __device__ static void outputs_with_infinities(float (&out)[C][4], const float (&p)[B][4],
                                                 const T* values, int lane) {
    outputs_with_infinities(out, p, rows_of<stride>(values, lane));
  }

 private:
  // Replaces what isn't finite in a pair by 0 and marks with 1 what was +infinity or NaN (up), -infinity or NaN (down).
  __device__ static void take_infinities(uint32_t& pair, uint32_t& up, uint32_t& down) {
    constexpr uint32_t kExponent = type_of<T> == Type::bf16 ? 0x7f80 : 0x7c00;
    constexpr uint32_t kOne = type_of<T> == Type::bf16 ? 0x3f80 : 0x3c00;
    up = down = 0;
#pragma unroll
    for (int half = 0; half < 32; half += 16) {
      const uint32_t bits = pair >> half & 0xffff;
      if ((bits & kExponent) != kExponent) continue;
      const bool nan = (bits & 0x7fff) != kExponent;
      if (nan || !(bits & 0x8000)) up |= kOne << half;
      if (nan || (bits & 0x8000)) down |= kOne << half;
      pair &= ~(0xffffu << half);
    }
  }
};

// fp32 by three products of halves in tf32.
template <>
struct WarpProducts<float> {
  static constexpr int kDepth = 8;

  __device__ static void multiply(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const device::SplitTf32 split = device::split_tf32(a[i]);
      a_high[i] = split.high;
      a_low[i] = split.low;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const device::SplitTf32 split = device::split_tf32(b[i]);
      b_high[i] = split.high;
      b_low[i] = split.low;
    }
    device::mma_16x8x8_tf32(d, a_low, b_high);
    device::mma_16x8x8_tf32(d, a_high, b_low);
    device::mma_16x8x8_tf32(d, a_high, b_high);
  }

  template <int kColumns, int stride, int B>
  __device__ static void scores(float (&s)[B][4], const float* queries, const float* keys,
                                int lane) {
    const float* a_row = queries + lane / 4 * stride + lane % 4;
    const float* b_row = keys + lane / 4 * stride + lane % 4;
#pragma unroll 4
    for (int k = 0; k < kColumns; k += 8) {
      const float a[4] = {a_row[k], a_row[k + 8 * stride], a_row[k + 4], a_row[k + 4 + 8 * stride]};
#pragma unroll
      for (int n = 0; n < B; ++n) {
        const float* b = b_row + n * 8 * stride + k;
        multiply(s[n], a, {b[0], b[4]});
      }
    }
    recompute_infinities(s, queries, keys, stride, kColumns, lane);
  }

  // The order of the keys in a product is free: the operand's columns c and c + 4 stand for keys 2c and 2c + 1, which
  // is how probabilities lie.
  template <int stride, int B, int C>
  __device__ static void outputs(float (&out)[C][4], const float (&p)[B][4], const float* values,
                                 int lane) {
    const float* b_row = values + lane % 4 * 2 * stride + lane / 4;
#pragma unroll
    for (int k = 0; k < B; ++k) {
      const float a[4] = {p[k][0], p[k][2], p[k][1], p[k][3]};
#pragma unroll
      for (int n = 0; n < C; ++n) {
        const float* b = b_row + k * 8 * stride + n * 8;
        multiply(out[n], a, {b[0], b[stride]});
      }
    }
  }

  template <int stride, int B, int C>
  __device__ static void outputs_with_infinities(float (&out)[C][4], const float (&p)[B][4],
                                                 const float* values, int lane) {
    const float* b_row = values + lane % 4 * 2 * stride + lane / 4;
    float chosen[B][4];
    mark_chosen(chosen, p);
#pragma unroll
    for (int k = 0; k < B; ++k) {
      const float a[4] = {p[k][0], p[k][2], p[k][1], p[k][3]};
      const float ones[4] = {chosen[k][0], chosen[k][2], chosen[k][1], chosen[k][3]};
#pragma unroll
      for (int n = 0; n < C; ++n) {
        const float* row = b_row + k * 8 * stride + n * 8;
        float b[2] = {row[0], row[stride]}, up[2], down[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          up[i] = isfinite(b[i]) || b[i] < 0.0f ? 0.0f : 1.0f;
          down[i] = isfinite(b[i]) || b[i] > 0.0f ? 0.0f : 1.0f;
          if (!isfinite(b[i])) b[i] = 0.0f;
        }
        multiply(out[n], a, b);
        float ups[4] = {}, downs[4] = {};
        multiply(ups, ones, up);
        multiply(downs, ones, down);
        add_infinities(out[n], ups, downs);
      }
    }
  }

 private:
  // Halves of an infinite number don't multiply as it does.
  template <int B>
  __device__ static void recompute_infinities(float (&s)[B][4], const float* queries,
                                              const float* keys, int stride, int width, int lane) {
    bool finite = true;
#pragma unroll
    for (int n = 0; n < B; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) finite = finite && isfinite(s[n][e]);
    }
    if (__all_sync(0xffffffffu, finite)) return;
#pragma unroll
    for (int n = 0; n < B; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float* q = queries + (lane / 4 + e / 2 * 8) * stride;
        const float* k = keys + (n * 8 + lane % 4 * 2 + e % 2) * stride;
        float sum = 0.0f;
        for (int c = 0; c < width; ++c) sum += q[c] * k[c];
        s[n][e] = sum;
      }
    }
  }
};

}  // namespace hax::sparse_attention
