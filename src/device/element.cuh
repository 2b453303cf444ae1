// Elements of fp32, fp16 and bf16 as fp32: one at a time, several with one access, or of a type that is
// known when the kernel runs only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/tensor.hpp"

namespace hax::device {

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(bf16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ inline float to_float(fp16 value) { return __half2float(__ushort_as_half(value.bits)); }

template <class T>
__device__ T from_float(float value) {
  if constexpr (type_of<T> == Type::fp32) {
    return value;
  } else if constexpr (type_of<T> == Type::bf16) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
  } else {
    return {__half_as_ushort(__float2half_rn(value))};
  }
}

// V neighbouring elements as they lie in memory, moved by one access of V * sizeof(T) bytes.
template <class T, int V>
struct alignas(sizeof(T) * V) Packed {
  T values[V];
};

// An access's widest form.
template <class T>
inline constexpr int kVectorElements = 16 / static_cast<int>(sizeof(T));

// Reads memory that no thread writes while the kernel runs. `from` is aligned to the whole vector.
template <class T, int V>
__device__ Packed<T, V> load_packed(const T* from) {
  constexpr int kBytes = static_cast<int>(sizeof(T)) * V;
  Packed<T, V> packed;
  const auto move = [&](auto word) {
    word = __ldg(reinterpret_cast<const decltype(word)*>(from));
    memcpy(&packed, &word, sizeof(word));
  };
  if constexpr (kBytes == 16) {
    move(uint4{});
  } else if constexpr (kBytes == 8) {
    move(uint2{});
  } else if constexpr (kBytes == 4) {
    move(static_cast<unsigned>(0));
  } else {
    static_assert(kBytes == 2);
    move(static_cast<unsigned short>(0));
  }
  return packed;
}

// The same for memory that this thread writes later on and nobody needs soon: it asks for no place in the caches.
template <class T, int V>
__device__ Packed<T, V> load_streamed(const T* from) {
  Packed<T, V> packed;
  const auto move = [&](auto word) {
    word = __ldcs(reinterpret_cast<const decltype(word)*>(from));
    memcpy(&packed, &word, sizeof(word));
  };
  if constexpr (sizeof(packed) == 16) {
    move(uint4{});
  } else {
    static_assert(sizeof(packed) == 8);
    move(uint2{});
  }
  return packed;
}

template <class T, int V>
__device__ void unpack(float (&to)[V], const Packed<T, V>& packed) {
#pragma unroll
  for (int v = 0; v < V; ++v) to[v] = to_float(packed.values[v]);
}

template <class T, int V>
__device__ Packed<T, V> pack(const float (&values)[V]) {
  Packed<T, V> packed;
  if constexpr (type_of<T> == Type::bf16 && V % 2 == 0) {
#pragma unroll
    for (int v = 0; v < V; v += 2) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(values[v], values[v + 1]);
      memcpy(&packed.values[v], &pair, sizeof(pair));
    }
  } else if constexpr (type_of<T> == Type::fp16 && V % 2 == 0) {
#pragma unroll
    for (int v = 0; v < V; v += 2) {
      const __half2 pair = __floats2half2_rn(values[v], values[v + 1]);
      memcpy(&packed.values[v], &pair, sizeof(pair));
    }
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v) packed.values[v] = from_float<T>(values[v]);
  }
  return packed;
}

template <class T, int V>
__device__ void store_packed(T* to, const float (&values)[V]) {
  *reinterpret_cast<Packed<T, V>*>(to) = pack<T>(values);
}

// As load_streamed.
template <class T, int V>
__device__ void store_streamed(T* to, const float (&values)[V]) {
  const Packed<T, V> packed = pack<T>(values);
  const auto move = [&](auto word) {
    memcpy(&word, &packed, sizeof(word));
    __stcs(reinterpret_cast<decltype(word)*>(to), word);
  };
  if constexpr (sizeof(packed) == 16) {
    move(uint4{});
  } else {
    static_assert(sizeof(packed) == 8);
    move(uint2{});
  }
}

// Element `offset` of a tensor of any float type.
__device__ inline float load_any(const Tensor& tensor, int64_t offset) {
  switch (tensor.type) {
    case Type::bf16: return to_float(static_cast<const bf16*>(tensor.data)[offset]);
    case Type::fp16: return to_float(static_cast<const fp16*>(tensor.data)[offset]);
    default: return static_cast<const float*>(tensor.data)[offset];
  }
}

__device__ inline void store_any(const Tensor& tensor, int64_t offset, float value) {
  switch (tensor.type) {
    case Type::bf16: static_cast<bf16*>(tensor.data)[offset] = from_float<bf16>(value); break;
    case Type::fp16: static_cast<fp16*>(tensor.data)[offset] = from_float<fp16>(value); break;
    default: static_cast<float*>(tensor.data)[offset] = value; break;
  }
}

// V neighbouring elements from `offset` on, where moves_in_vectors<V>() holds or V is 1.
template <int V>
__device__ void load_any(float (&to)[V], const Tensor& tensor, int64_t offset) {
  // Not load_packed: the kernel may write this memory later.
  const auto load = [&]<class T>(const T* data) {
    unpack(to, *reinterpret_cast<const Packed<T, V>*>(data + offset));
  };
  switch (tensor.type) {
    case Type::bf16: load(static_cast<const bf16*>(tensor.data)); break;
    case Type::fp16: load(static_cast<const fp16*>(tensor.data)); break;
    default: load(static_cast<const float*>(tensor.data)); break;
  }
}

template <int V>
__device__ void store_any(const Tensor& tensor, int64_t offset, const float (&values)[V]) {
  switch (tensor.type) {
    case Type::bf16: store_packed<bf16, V>(static_cast<bf16*>(tensor.data) + offset, values); break;
    case Type::fp16: store_packed<fp16, V>(static_cast<fp16*>(tensor.data) + offset, values); break;
    default: store_packed<float, V>(static_cast<float*>(tensor.data) + offset, values); break;
  }
}

// Whether V neighbours on the last axis can always be moved by one access, from an index that V divides.
template <int V>
inline bool moves_in_vectors(const Tensor& tensor) {
  if (!tensor || tensor.numel() == 0) return true;
  const int last = tensor.ndim - 1;
  if (tensor.shape[last] % V != 0 || !tensor.last_axis_contiguous()) return false;
  for (int axis = 0; axis < last; ++axis) {
    if (tensor.shape[axis] > 1 && tensor.stride[axis] % V != 0) return false;
  }
  return reinterpret_cast<uintptr_t>(tensor.data) % (V * size_of(tensor.type)) == 0;
}

}  // namespace hax::device
