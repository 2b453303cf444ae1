#include "support/tensor_builder.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <set>

namespace hax_test {
namespace {

constexpr unsigned char kSentinel = 0x5c;
constexpr size_t kGuardBytes = 512;

bool is_integer(hax_data_type type) { return type.code == HAX_TYPE_INT; }

// Rounds to `digits` significant bits with the given smallest normal exponent and largest finite value.
double round_binary(double value, int digits, int min_exponent, double largest) {
  if (!std::isfinite(value) || value == 0.0) return value;
  int exponent = 0;
  std::frexp(value, &exponent);
  const int last_bit = std::max(exponent - digits, min_exponent - digits);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, -last_bit)), last_bit);
  const bool overflows = std::abs(rounded) > largest;
  return overflows ? std::copysign(std::numeric_limits<double>::infinity(), value) : rounded;
}

uint16_t fp16_bits(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7e00;
  const double magnitude = std::abs(round_to(value, kFp16));
  if (std::isinf(magnitude)) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 0x1p-14) {
    return static_cast<uint16_t>(sign | static_cast<int>(std::ldexp(magnitude, 24)));
  }
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent);  // in [1/2, 1)
  const int mantissa = static_cast<int>(std::ldexp(fraction, 11)) - 1024;
  return static_cast<uint16_t>(sign | (exponent + 14) << 10 | mantissa);
}

double from_fp16_bits(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  double magnitude;
  if (exponent == 31) {
    magnitude = mantissa ? std::numeric_limits<double>::quiet_NaN()
                         : std::numeric_limits<double>::infinity();
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, -24);
  } else {
    magnitude = std::ldexp(1024 + mantissa, exponent - 25);
  }
  return bits & 0x8000 ? -magnitude : magnitude;
}

template <class T>
void put(unsigned char* to, T value) {
  std::memcpy(to, &value, sizeof(value));
}

template <class T>
T get(const unsigned char* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

void write_element(unsigned char* to, hax_data_type type, double value) {
  if (is_integer(type)) {
    type.bits == 32 ? put(to, static_cast<int32_t>(value)) : put(to, static_cast<int64_t>(value));
  } else if (type.bits == 32) {
    put(to, static_cast<float>(value));
  } else if (type.code == HAX_TYPE_BFLOAT) {
    const float rounded = static_cast<float>(round_to(value, kBf16));
    put(to, static_cast<uint16_t>(std::bit_cast<uint32_t>(rounded) >> 16));
  } else {
    put(to, fp16_bits(value));
  }
}

double read_element(const unsigned char* from, hax_data_type type) {
  if (is_integer(type)) {
    return type.bits == 32 ? static_cast<double>(get<int32_t>(from))
                           : static_cast<double>(get<int64_t>(from));
  }
  if (type.bits == 32) return static_cast<double>(get<float>(from));
  const uint16_t bits = get<uint16_t>(from);
  if (type.code == HAX_TYPE_BFLOAT) {
    return static_cast<double>(std::bit_cast<float>(uint32_t{bits} << 16));
  }
  return from_fp16_bits(bits);
}

// Strides in elements of `shape` in a layout, and the room from the first element to the last's end.
std::vector<int64_t> strides_of(const std::vector<int64_t>& shape, Layout layout) {
  std::vector<int64_t> strides(shape.size());
  int64_t next = layout == Layout::strided_last ? 2 : 1;
  if (layout == Layout::channel_major && shape.size() >= 2) {
    for (size_t axis = shape.size() - 1; axis-- > 1;) {
      strides[axis] = next;
      next *= std::max<int64_t>(shape[axis], 1);
    }
    strides.back() = next;
    next *= std::max<int64_t>(shape.back(), 1);
    strides[0] = next;
    return strides;
  }
  for (size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = next;
    next *= std::max<int64_t>(shape[axis], 1);
    if (layout == Layout::padded_rows && axis + 1 == shape.size()) next += 3;
  }
  return strides;
}

}  // namespace

std::string name_of(hax_data_type type) {
  if (is_integer(type)) return type.bits == 32 ? "int32" : "int64";
  if (type.code == HAX_TYPE_BFLOAT) return "bf16";
  return type.bits == 32 ? "fp32" : "fp16";
}

const char* name_of(Layout layout) {
  switch (layout) {
    case Layout::compact: return "compact";
    case Layout::null_strides: return "null_strides";
    case Layout::padded_rows: return "padded_rows";
    case Layout::strided_last: return "strided_last";
    case Layout::channel_major: return "channel_major";
  }
  return "unknown";
}

double round_to(double value, hax_data_type type) {
  if (is_integer(type)) return std::nearbyint(value);
  if (type.code == HAX_TYPE_BFLOAT) return round_binary(value, 8, -125, 0x1.fep127);
  if (type.bits == 16) return round_binary(value, 11, -13, 65504.0);
  return static_cast<double>(static_cast<float>(value));
}

Array round_to(const Array& values, hax_data_type type) {
  Array rounded = values;
  for (double& value : rounded.data) value = round_to(value, type);
  return rounded;
}

namespace {

// Every live Argument of the process, for OnTestDevice.
struct Registry {
  std::mutex mutex;
  std::set<Argument::State*> states;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

}  // namespace

Argument::State::State() {
  const std::lock_guard lock(registry().mutex);
  registry().states.insert(this);
}

Argument::State::~State() {
  const std::lock_guard lock(registry().mutex);
  registry().states.erase(this);
}

OnTestDevice::OnTestDevice() {
  if (!tests_use_cuda()) return;
  const std::lock_guard lock(registry().mutex);
  for (Argument::State* state : registry().states) {
    hax_tensor& tensor = state->tensor;
    if (tensor.data != state->bytes.data() || tensor.device.type != HAX_DEVICE_CPU) continue;
    moved_.push_back(
        {state, std::make_unique<DeviceCopy>(state->bytes.data(), state->bytes.size())});
    tensor.data = moved_.back().copy->data();
    tensor.device = {HAX_DEVICE_CUDA, 0};
  }
}

OnTestDevice::~OnTestDevice() {
  for (const Moved& moved : moved_) {
    moved.copy->download(moved.state->bytes.data());
    moved.state->tensor.data = moved.state->bytes.data();
    moved.state->tensor.device = {HAX_DEVICE_CPU, 0};
  }
}

Argument Argument::make(const std::vector<int64_t>& shape, hax_data_type type, Layout layout) {
  Argument argument;
  argument.state_ = std::make_shared<State>();
  State& state = *argument.state_;
  state.shape = shape;
  state.strides = strides_of(shape, layout);
  const int64_t size = type.bits / 8;
  const int64_t count = numel_of(shape);
  int64_t extent = count > 0 ? 1 : 0;
  for (size_t axis = 0; axis < shape.size() && count > 0; ++axis) {
    extent += (shape[axis] - 1) * state.strides[axis];
  }
  const int64_t lead = layout == Layout::padded_rows ? 64 + size : 64;
  state.bytes.assign(static_cast<size_t>(lead + extent * size + 64), kSentinel);
  state.is_element.assign(state.bytes.size(), false);
  state.tensor.data = state.bytes.data();
  state.tensor.byte_offset = static_cast<uint64_t>(lead);
  state.tensor.device = {HAX_DEVICE_CPU, 0};
  state.tensor.ndim = static_cast<int32_t>(shape.size());
  state.tensor.dtype = type;
  state.tensor.shape = state.shape.data();
  state.tensor.strides = layout == Layout::null_strides ? nullptr : state.strides.data();
  for (int64_t flat = 0; flat < count; ++flat) {
    const size_t byte = static_cast<size_t>(argument.byte_of(flat));
    for (size_t i = 0; i < static_cast<size_t>(size); ++i) state.is_element[byte + i] = true;
  }
  return argument;
}

int64_t Argument::byte_of(int64_t flat) const {
  int64_t offset = 0;
  for (size_t axis = state_->shape.size(); axis-- > 0;) {
    offset += flat % state_->shape[axis] * state_->strides[axis];
    flat /= state_->shape[axis];
  }
  return static_cast<int64_t>(state_->tensor.byte_offset) +
         offset * (state_->tensor.dtype.bits / 8);
}

Argument Argument::input(const Array& values, hax_data_type type, Layout layout) {
  if (!values.present()) return {};
  Argument argument = make(values.shape, type, layout);
  for (int64_t flat = 0; flat < values.numel(); ++flat) {
    write_element(&argument.state_->bytes[static_cast<size_t>(argument.byte_of(flat))], type,
                  values.data[static_cast<size_t>(flat)]);
  }
  argument.state_->original = argument.state_->bytes;
  return argument;
}

Argument Argument::indices(const std::vector<int64_t>& values, hax_data_type type) {
  Array as_doubles({static_cast<int64_t>(values.size())});
  for (size_t i = 0; i < values.size(); ++i) as_doubles.data[i] = static_cast<double>(values[i]);
  return input(as_doubles, type);
}

Argument Argument::output(const std::vector<int64_t>& shape, hax_data_type type, Layout layout) {
  Argument argument = make(shape, type, layout);
  State& state = *argument.state_;
  for (size_t i = 0; i < state.bytes.size(); ++i) {
    if (state.is_element[i]) state.bytes[i] = is_integer(type) ? 0xaa : 0xff;
  }
  state.original = state.bytes;
  return argument;
}

Array Argument::array() const {
  if (!state_) return {};
  Array values(state_->shape);
  for (int64_t flat = 0; flat < values.numel(); ++flat) {
    values.data[static_cast<size_t>(flat)] =
        read_element(&state_->bytes[static_cast<size_t>(byte_of(flat))], state_->tensor.dtype);
  }
  return values;
}

std::vector<int64_t> Argument::integers() const {
  std::vector<int64_t> values(static_cast<size_t>(numel_of(state_->shape)));
  for (size_t flat = 0; flat < values.size(); ++flat) {
    const unsigned char* from =
        &state_->bytes[static_cast<size_t>(byte_of(static_cast<int64_t>(flat)))];
    values[flat] = state_->tensor.dtype.bits == 32 ? get<int32_t>(from) : get<int64_t>(from);
  }
  return values;
}

::testing::AssertionResult Argument::sentinels_intact() const {
  if (!state_) return ::testing::AssertionSuccess();
  for (size_t i = 0; i < state_->bytes.size(); ++i) {
    if (!state_->is_element[i] && state_->bytes[i] != kSentinel) {
      return ::testing::AssertionFailure()
             << "byte "
             << static_cast<int64_t>(i) - static_cast<int64_t>(state_->tensor.byte_offset)
             << " from the first element of a tensor " << to_string(state_->shape)
             << " was written, but belongs to no element";
    }
  }
  return ::testing::AssertionSuccess();
}

bool Argument::untouched() const { return state_->bytes == state_->original; }

TestContext::TestContext(int threads, const char* cpu_level) {
  hax_context_options options = {};
  options.struct_size = sizeof(options);
  options.num_threads = threads;
  options.cpu_level = cpu_level;
  if (hax_context_create(&options, &context_) != HAX_SUCCESS) {
    ADD_FAILURE() << hax_last_error();
  }
}

std::vector<std::string> available_cpu_levels() {
  std::vector<std::string> levels;
  for (const char* level : {"baseline", "x86-64", "x86-64-v3", "x86-64-v4"}) {
    hax_context_options options = {};
    options.struct_size = sizeof(options);
    options.cpu_level = level;
    hax_context* context = nullptr;
    if (hax_context_create(&options, &context) == HAX_SUCCESS) levels.push_back(level);
    hax_context_destroy(context);
  }
  if (tests_use_cuda()) levels.resize(1);
  return levels;
}

Scratch::Scratch(size_t bytes) : memory_(bytes + 2 * kGuardBytes, 0xff), bytes_(bytes) {
  const auto address = reinterpret_cast<uintptr_t>(memory_.data());
  data_ = memory_.data() + (kGuardBytes - address % kGuardBytes) % kGuardBytes;
  std::memset(data_ + bytes, kSentinel, kGuardBytes);
  if (tests_use_cuda()) device_ = std::make_unique<DeviceCopy>(data_, bytes + kGuardBytes);
}

::testing::AssertionResult Scratch::guard_intact() const {
  if (device_) device_->download(data_);
  const unsigned char* guard = data_ + bytes_;
  for (size_t i = 0; i < kGuardBytes; ++i) {
    if (guard[i] != kSentinel) {
      return ::testing::AssertionFailure()
             << "byte " << i << " behind a workspace of " << bytes_ << " bytes was written";
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace hax_test
