#include "safetensors.hpp"

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace hax_test {
namespace {

double half_to_double(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  double value = 0.0;
  if (exponent == 31) {
    value = fraction == 0 ? std::numeric_limits<double>::infinity()
                          : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(fraction, -24);
  } else {
    value = std::ldexp(1024 + fraction, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

double bfloat16_to_double(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value = 0.0F;
  std::memcpy(&value, &wide, sizeof value);
  return static_cast<double>(value);
}

template <class T>
T read_as(const unsigned char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

struct ElementType {
  const char* name;
  size_t bytes;
  double (*convert)(const unsigned char*);
};

constexpr ElementType kElementTypes[] = {
    {"F64", 8, [](const unsigned char* p) { return read_as<double>(p); }},
    {"F32", 4, [](const unsigned char* p) { return static_cast<double>(read_as<float>(p)); }},
    {"F16", 2, [](const unsigned char* p) { return half_to_double(read_as<uint16_t>(p)); }},
    {"BF16", 2, [](const unsigned char* p) { return bfloat16_to_double(read_as<uint16_t>(p)); }},
    {"U8", 1, [](const unsigned char* p) { return static_cast<double>(*p); }},
    {"I32", 4, [](const unsigned char* p) { return static_cast<double>(read_as<int32_t>(p)); }},
    {"I64", 8, [](const unsigned char* p) { return static_cast<double>(read_as<int64_t>(p)); }},
};

}  // namespace

Safetensors::Safetensors(const std::string& path) : path_(path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("safetensors: cannot open " + path);
  uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  if (!file || header_bytes > (uint64_t{1} << 30)) {
    throw std::runtime_error("safetensors: " + path + " has no valid header length");
  }
  std::string header(static_cast<size_t>(header_bytes), '\0');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  if (!file) throw std::runtime_error("safetensors: " + path + " ends inside its header");
  bytes_.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());

  const nlohmann::json parsed = nlohmann::json::parse(header);
  for (const auto& [name, value] : parsed.items()) {
    if (name == "__metadata__") {
      metadata_ = value.get<std::map<std::string, std::string>>();
      continue;
    }
    Entry entry;
    entry.dtype = value.at("dtype").get<std::string>();
    entry.shape = value.at("shape").get<std::vector<int64_t>>();
    entry.begin = value.at("data_offsets").at(0).get<uint64_t>();
    entry.end = value.at("data_offsets").at(1).get<uint64_t>();
    if (entry.begin > entry.end || entry.end > bytes_.size()) {
      throw std::runtime_error("safetensors: " + path + ": " + name + " lies outside the file");
    }
    entries_.emplace(name, std::move(entry));
  }
}

std::vector<std::string> Safetensors::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

Array Safetensors::load(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw std::runtime_error("safetensors: " + path_ + " has no tensor " + name);
  }
  const Entry& entry = found->second;
  for (const ElementType& type : kElementTypes) {
    if (entry.dtype != type.name) continue;
    Array out(entry.shape);
    if (out.data.size() * type.bytes != entry.end - entry.begin) {
      throw std::runtime_error("safetensors: " + path_ + ": size of " + name +
                               " does not match its shape");
    }
    const unsigned char* from = bytes_.data() + entry.begin;
    for (double& value : out.data) {
      value = type.convert(from);
      from += type.bytes;
    }
    return out;
  }
  throw std::runtime_error("safetensors: " + path_ + ": " + name + " has the element type " +
                           entry.dtype + ", which is not supported");
}

Array Safetensors::load_if_present(const std::string& name) const {
  return contains(name) ? load(name) : Array();
}

std::string golden_path(const std::string& name) {
  return std::string(HAX_TEST_GOLDEN_DIR) + "/" + name;
}

}  // namespace hax_test
