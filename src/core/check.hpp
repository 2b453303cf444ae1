// Validation of arguments. Each operator's <operator>_check.cpp uses a Checker to turn the caller's
// args struct into Tensors; what it accepts is all that is supported.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <string>

#include "core/error.hpp"
#include "core/tensor.hpp"

namespace hax {

// One length of an operator's shapes. Unbound (-1) until the first tensor that has it binds it; every
// later tensor must agree.
struct Axis {
  const char* name;
  int64_t value = -1;
};

// A type that several tensors share, bound by the first of them.
struct TypeSlot {
  const char* name;
  Type value = Type::none;
};

// Types an argument may have: a list, or a shared type and perhaps fp32 beside it.
struct TypeRule {
  TypeRule(std::initializer_list<Type> list) : count(0), slot(nullptr) {
    for (const Type type : list) allowed[count++] = type;
  }
  TypeRule(TypeSlot& shared) : count(0), slot(&shared) {}
  TypeRule(TypeSlot& shared, Type also) : allowed{also}, count(1), slot(&shared) {}

  Type allowed[5] = {};
  int count;
  TypeSlot* slot;
};

inline const std::initializer_list<Type> kFloatTypes = {Type::fp32, Type::fp16, Type::bf16};

const char* name_of(Type type);

class Checker {
 public:
  // function: name of the C function, for messages. needs_data: whether data pointers must be valid;
  // false in workspace queries.
  Checker(const char* function, bool needs_data) : function_(function), needs_data_(needs_data) {}

  using Shape = std::initializer_list<Axis*>;

  // A tensor that must be given, which the call reads or writes.
  Tensor input(const hax_tensor* tensor, const char* name, const TypeRule& types, Shape shape);
  Tensor output(const hax_tensor* tensor, const char* name, const TypeRule& types, Shape shape);

  // One that may be NULL, which answers an empty Tensor.
  Tensor optional_input(const hax_tensor* tensor, const char* name, const TypeRule& types,
                        Shape shape) {
    return tensor ? input(tensor, name, types, shape) : Tensor{};
  }
  Tensor optional_output(const hax_tensor* tensor, const char* name, const TypeRule& types,
                         Shape shape) {
    return tensor ? output(tensor, name, types, shape) : Tensor{};
  }

  // Sequences of a (batch, length) pair of axes bound before. With cu_seqlens the batch must be 1, and on
  // the CPU the content is checked unless this is a workspace query. max_seqlen: the caller's promise, or 0.
  Sequences sequences(const hax_tensor* cu_seqlens, const Axis& batch, const Axis& length,
                      int64_t max_seqlen = 0);

  // Device of all tensors seen so far; the CPU if there was none.
  hax_device device() const { return device_; }
  bool on_cpu() const { return device_.type == HAX_DEVICE_CPU; }
  bool needs_data() const { return needs_data_; }

  // Throws status with "<function>: <parts>".
  template <class... Parts>
  [[noreturn]] void fail_with(hax_status status, const Parts&... parts) const {
    fail(status, function_, ": ", parts...);
  }

  // Throws INVALID_ARGUMENT unless `ok`; the text names the argument, what is expected, what came.
  template <class... Parts>
  void expect(bool ok, const Parts&... parts) const {
    if (!ok) fail_with(HAX_ERROR_INVALID_ARGUMENT, parts...);
  }

  // Throws UNSUPPORTED unless `ok`.
  template <class... Parts>
  void supported(bool ok, const Parts&... parts) const {
    if (!ok) fail_with(HAX_ERROR_UNSUPPORTED, parts...);
  }

  // A length that has to lie in [low, high].
  void range(const Axis& axis, int64_t low, int64_t high) const;

  // `part` must divide `whole` (both >= 1 unless whole is 0).
  void divides(const Axis& part, const Axis& whole) const;

  // A flag that is 0 or 1.
  bool flag(int32_t value, const char* name) const;

 private:
  Tensor tensor(const hax_tensor* tensor, const char* name, const TypeRule& types, Shape shape);
  void check_type(Type type, const char* name, const TypeRule& types) const;
  void check_shape(const hax_tensor& tensor, const char* name, Shape shape) const;
  void check_device(const hax_tensor& tensor, const char* name);

  const char* function_;
  bool needs_data_;
  hax_device device_ = {HAX_DEVICE_CPU, 0};
  const char* device_name_ = nullptr;  // argument that set device_
};

// Bytes of an args struct in its first release. max_seqlen is the first of the fields appended since.
template <class Args>
constexpr size_t first_size() {
  if constexpr (requires(Args args) { args.max_seqlen; }) {
    return offsetof(Args, max_seqlen);
  } else {
    return sizeof(Args);
  }
}

// Copies an args struct, whatever version of it the caller was compiled with: missing fields at its end
// are 0, and an error only below the first release's size; unknown ones are an error only if they aren't 0.
template <class Args>
Args read_struct(const Args* args, const char* function, const char* what) {
  if (!args)
    fail(HAX_ERROR_INVALID_ARGUMENT, function, ": ", what, ": expected a struct, got NULL");
  const size_t size = args->struct_size;
  if (size < first_size<Args>()) {
    fail(HAX_ERROR_INVALID_ARGUMENT, function, ": ", what, "->struct_size: expected at least ",
         first_size<Args>(), ", got ", size);
  }
  const char* bytes = reinterpret_cast<const char*>(args);
  for (size_t i = sizeof(Args); i < size; ++i) {
    if (bytes[i] != 0) {
      fail(HAX_ERROR_UNSUPPORTED, function, ": ", what, "->struct_size: this library knows ",
           sizeof(Args), " bytes, got ", size, " with fields set beyond them");
    }
  }
  Args copy = {};
  std::memcpy(&copy, args, std::min(size, sizeof(Args)));
  return copy;
}

}  // namespace hax
