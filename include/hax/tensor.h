/* hax: borrowed tensors. The layout equals DLPack's DLTensor, so a DLTensor* may be cast to a
 * hax_tensor* and back (https://dmlc.github.io/dlpack). */
#ifndef HAX_TENSOR_H_
#define HAX_TENSOR_H_

#include "hax/base.h"

/* Values of hax_device.type, equal to DLDeviceType. */
#define HAX_DEVICE_CPU 1
#define HAX_DEVICE_CUDA 2

/* Values of hax_data_type.code, equal to DLDataTypeCode. */
#define HAX_TYPE_INT 0
#define HAX_TYPE_UINT 1
#define HAX_TYPE_FLOAT 2
#define HAX_TYPE_BFLOAT 4

typedef struct hax_device {
  int32_t type;  /* HAX_DEVICE_CPU or HAX_DEVICE_CUDA */
  int32_t index; /* ordinal of the device; 0 for the CPU */
} hax_device;

typedef struct hax_data_type {
  uint8_t code;   /* HAX_TYPE_* */
  uint8_t bits;   /* 16, 32 or 64 */
  uint16_t lanes; /* always 1 */
} hax_data_type;

/* A borrowed view of memory the caller owns. hax reads the descriptor during the call only.
 *
 * Whether an argument's elements are read or written is said where the argument is documented; the
 * descriptor itself is never written. An optional argument is left out by passing NULL for the
 * hax_tensor pointer. Tensors written by a call must not overlap each other or any tensor read.
 * No alignment beyond the element's own is assumed. */
typedef struct hax_tensor {
  void* data;          /* may be NULL where the tensor has no elements, and in _workspace functions */
  hax_device device;   /* one device for all tensors of a call */
  int32_t ndim;        /* number of axes */
  hax_data_type dtype; /* element type */
  int64_t* shape;      /* ndim lengths, each >= 0 */
  int64_t* strides;    /* ndim distances in elements, or NULL for compact row-major order */
  uint64_t byte_offset; /* added to data */
} hax_tensor;

/* Element types, for static initialisers: hax_data_type t = HAX_BF16; */
#define HAX_FP32 {HAX_TYPE_FLOAT, 32, 1}
#define HAX_FP16 {HAX_TYPE_FLOAT, 16, 1}
#define HAX_BF16 {HAX_TYPE_BFLOAT, 16, 1}
#define HAX_INT32 {HAX_TYPE_INT, 32, 1}
#define HAX_INT64 {HAX_TYPE_INT, 64, 1}

#endif /* HAX_TENSOR_H_ */
