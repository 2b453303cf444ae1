#include "core/check.hpp"

#include <algorithm>
#include <limits>

namespace hax {
namespace {

Type type_from(hax_data_type dtype) {
  if (dtype.lanes != 1) return Type::none;
  if (dtype.code == HAX_TYPE_FLOAT && dtype.bits == 32) return Type::fp32;
  if (dtype.code == HAX_TYPE_FLOAT && dtype.bits == 16) return Type::fp16;
  if (dtype.code == HAX_TYPE_BFLOAT && dtype.bits == 16) return Type::bf16;
  if (dtype.code == HAX_TYPE_INT && dtype.bits == 32) return Type::int32;
  if (dtype.code == HAX_TYPE_INT && dtype.bits == 64) return Type::int64;
  return Type::none;
}

std::string describe(hax_data_type dtype) {
  const Type type = type_from(dtype);
  if (type != Type::none) return name_of(type);
  return concat("dtype (code ", int{dtype.code}, ", bits ", int{dtype.bits}, ", lanes ",
                int{dtype.lanes}, ")");
}

std::string describe(const hax_tensor& tensor) {
  std::string text = "(";
  for (int32_t axis = 0; axis < tensor.ndim; ++axis) {
    text += concat(axis ? ", " : "", tensor.shape[axis]);
  }
  return text + ")";
}

std::string describe(std::initializer_list<Axis*> shape) {
  std::string text = "(";
  const char* separator = "";
  for (const Axis* axis : shape) {
    text += concat(separator, axis->name);
    if (axis->value >= 0) text += concat("=", axis->value);
    separator = ", ";
  }
  return text + ")";
}

std::string describe(const TypeRule& types) {
  std::string text;
  if (types.slot) {
    text = types.slot->value == Type::none
               ? "fp32, fp16 or bf16"
               : concat(name_of(types.slot->value), " (the type of ", types.slot->name, ")");
  }
  for (int i = 0; i < types.count; ++i) {
    const bool last = i + 1 == types.count;
    text += concat(text.empty() ? "" : last ? " or " : ", ", name_of(types.allowed[i]));
  }
  return text;
}

}  // namespace

const char* name_of(Type type) {
  switch (type) {
    case Type::none: return "none";
    case Type::fp32: return "fp32";
    case Type::fp16: return "fp16";
    case Type::bf16: return "bf16";
    case Type::int32: return "int32";
    case Type::int64: return "int64";
  }
  return "unknown";
}

void Checker::check_device(const hax_tensor& tensor, const char* name) {
  const hax_device device = tensor.device;
  if (device.type != HAX_DEVICE_CPU && device.type != HAX_DEVICE_CUDA) {
    fail_with(HAX_ERROR_UNSUPPORTED, name, ": expected device type 1 (CPU) or 2 (CUDA), got ",
              device.type);
  }
  if (!device_name_) {
    device_ = device;
    device_name_ = name;
  }
  expect(device.type == device_.type && device.index == device_.index, name,
         ": expected the device of ", device_name_, " (type ", device_.type, ", index ",
         device_.index, "), got type ", device.type, ", index ", device.index);
}

void Checker::check_type(Type type, const char* name, const TypeRule& types) const {
  bool ok = false;
  if (types.slot) {
    TypeSlot& slot = *types.slot;
    if (slot.value == Type::none &&
        (type == Type::fp32 || type == Type::fp16 || type == Type::bf16)) {
      slot.value = type;
    }
    ok = type != Type::none && slot.value == type;
  }
  for (int i = 0; i < types.count; ++i) ok = ok || types.allowed[i] == type;
  if (!ok) {
    fail_with(HAX_ERROR_UNSUPPORTED, name, ": expected ", describe(types), ", got ", name_of(type));
  }
}

void Checker::check_shape(const hax_tensor& tensor, const char* name, Shape shape) const {
  // Texts are made where they are needed only: making them costs more than all checks.
  if (tensor.ndim != static_cast<int32_t>(shape.size())) {
    fail_with(HAX_ERROR_INVALID_ARGUMENT, name, ": expected ", shape.size(), " axes ",
              describe(shape), ", got ndim ", tensor.ndim);
  }
  expect(tensor.ndim == 0 || tensor.shape, name, ": shape: expected ", tensor.ndim,
         " lengths, got NULL");
  bool ok = true;
  int32_t i = 0;
  for (const Axis* axis : shape) {
    const int64_t length = tensor.shape[i++];
    ok = ok && length >= 0 && (axis->value < 0 || axis->value == length);
  }
  if (!ok) {
    fail_with(HAX_ERROR_INVALID_ARGUMENT, name, ": expected shape ", describe(shape), ", got ",
              describe(tensor));
  }
  i = 0;
  for (Axis* axis : shape) axis->value = tensor.shape[i++];
}

Tensor Checker::tensor(const hax_tensor* given, const char* name, const TypeRule& types,
                       Shape shape) {
  expect(given, name, ": expected a tensor, got NULL");
  check_device(*given, name);
  const Type type = type_from(given->dtype);
  if (type == Type::none) {
    fail_with(HAX_ERROR_UNSUPPORTED, name, ": expected ", describe(types), ", got ",
              describe(given->dtype));
  }
  check_type(type, name, types);
  check_shape(*given, name, shape);

  Tensor view;
  view.type = type;
  view.ndim = given->ndim;
  int64_t compact = 1;
  constexpr int64_t kMaxElements = std::numeric_limits<int64_t>::max() / 16;
  for (int32_t axis = view.ndim - 1; axis >= 0; --axis) {
    const int64_t length = given->shape[axis];
    view.shape[axis] = length;
    view.stride[axis] = given->strides ? given->strides[axis] : compact;
    if (length > 0 && compact > kMaxElements / length) {
      fail_with(HAX_ERROR_INVALID_ARGUMENT, name, ": expected at most ", kMaxElements,
                " elements, got shape ", describe(*given));
    }
    compact *= length > 0 ? length : 1;
  }
  if (needs_data_ && view.numel() > 0) {
    expect(given->data, name, ": data: expected a pointer, got NULL");
    view.data = static_cast<char*>(given->data) + given->byte_offset;
    expect(reinterpret_cast<uintptr_t>(view.data) % size_of(type) == 0, name,
           ": data: expected an address aligned to ", size_of(type), " bytes, got one that isn't");
  }
  return view;
}

Tensor Checker::input(const hax_tensor* given, const char* name, const TypeRule& types,
                      Shape shape) {
  return tensor(given, name, types, shape);
}

Tensor Checker::output(const hax_tensor* given, const char* name, const TypeRule& types,
                       Shape shape) {
  const Tensor view = tensor(given, name, types, shape);
  for (int32_t axis = 0; axis < view.ndim; ++axis) {
    expect(view.shape[axis] <= 1 || view.stride[axis] != 0, name, ": strides: axis ", axis,
           " of an output has stride 0, so several elements would share one address");
  }
  return view;
}

Sequences Checker::sequences(const hax_tensor* cu_seqlens, const Axis& batch, const Axis& length,
                             int64_t max_seqlen) {
  Sequences result;
  result.batch = batch.value;
  result.length = result.longest = length.value;
  expect(max_seqlen >= 0, "max_seqlen: expected at least 0, got ", max_seqlen);
  if (!cu_seqlens) {
    expect(max_seqlen == 0 || max_seqlen >= length.value, "max_seqlen: expected 0 or at least ",
           length.name, "=", length.value, " without cu_seqlens, got ", max_seqlen);
    return result;
  }
  if (max_seqlen > 0) result.longest = std::min(max_seqlen, length.value);
  Axis boundaries{"S+1"};
  result.cu_seqlens = input(cu_seqlens, "cu_seqlens", {Type::int32, Type::int64}, {&boundaries});
  expect(boundaries.value >= 1, "cu_seqlens: expected at least one element, got 0");
  expect(batch.value == 1, "cu_seqlens: expected ", batch.name, "=1 beside it, got ", batch.value);
  if (!needs_data_ || !on_cpu()) return result;
  const int64_t count = result.count();
  expect(result.boundary(0) == 0, "cu_seqlens[0]: expected 0, got ", result.boundary(0));
  for (int64_t s = 0; s < count; ++s) {
    expect(result.boundary(s) <= result.boundary(s + 1), "cu_seqlens[", s + 1,
           "]: expected at least ", result.boundary(s), " as in the element before, got ",
           result.boundary(s + 1));
    const int64_t own = result.boundary(s + 1) - result.boundary(s);
    expect(own <= result.longest || max_seqlen == 0, "max_seqlen: expected at least ", own,
           ", the length of sequence ", s, ", got ", max_seqlen);
  }
  expect(result.boundary(count) == length.value, "cu_seqlens[", count, "]: expected ", length.name,
         "=", length.value, ", got ", result.boundary(count));
  return result;
}

void Checker::range(const Axis& axis, int64_t low, int64_t high) const {
  supported(axis.value >= low && axis.value <= high, axis.name, ": expected ", low, " to ", high,
            ", got ", axis.value);
}

void Checker::divides(const Axis& part, const Axis& whole) const {
  expect(part.value >= 1 ? whole.value % part.value == 0 : whole.value == 0, part.name,
         ": expected a divisor of ", whole.name, "=", whole.value, ", got ", part.value);
}

bool Checker::flag(int32_t value, const char* name) const {
  expect(value == 0 || value == 1, name, ": expected 0 or 1, got ", value);
  return value == 1;
}

}  // namespace hax
