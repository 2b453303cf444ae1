#include "train/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "train/error.hpp"
#include "train/run_files.hpp"

namespace joint_recall {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kLengthBytes = 8;
constexpr const char* kMetadata = "__metadata__";
constexpr std::array<std::pair<const char*, int64_t>, 13> kTypeBytes = {{{"F64", 8},
                                                                         {"F32", 4},
                                                                         {"F16", 2},
                                                                         {"BF16", 2},
                                                                         {"I64", 8},
                                                                         {"I32", 4},
                                                                         {"I16", 2},
                                                                         {"I8", 1},
                                                                         {"U64", 8},
                                                                         {"U32", 4},
                                                                         {"U16", 2},
                                                                         {"U8", 1},
                                                                         {"BOOL", 1}}};

class Reader {
 public:
  Reader(std::string path, SafetensorsFile& file) : path_(std::move(path)), file_(file) {}

  void read() {
    const Json header = parse_header();
    std::vector<std::pair<int64_t, int64_t>> ranges;
    for (const auto& [name, entry] : header.items()) {
      if (name == kMetadata) {
        read_metadata(entry);
      } else {
        ranges.push_back(read_tensor(name, entry));
      }
    }
    check_ranges(ranges);
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw TrainError(fmt::format("{}: {}", path_, problem));
  }

  Json parse_header() {
    const std::string& bytes = file_.bytes;
    if (bytes.size() < kLengthBytes) {
      fail(fmt::format(
          "not a safetensors file: it has {} bytes, fewer than the 8 of the header's length",
          bytes.size()));
    }
    uint64_t length = 0;
    for (size_t i = kLengthBytes; i-- > 0;) length = length << 8 | static_cast<uint8_t>(bytes[i]);
    if (length > bytes.size() - kLengthBytes) {
      fail(fmt::format(
          "truncated or not a safetensors file: its first 8 bytes tell of a header of {} bytes, "
          "but only {} follow",
          length, bytes.size() - kLengthBytes));
    }
    const auto text = std::string_view(bytes).substr(kLengthBytes, length);
    data_ = std::string_view(bytes).substr(kLengthBytes + length);
    std::set<std::string> names;
    const auto note_names = [&](int depth, Json::parse_event_t event, Json& value) {
      if (event == Json::parse_event_t::key && depth == 1 &&
          !names.insert(value.get<std::string>()).second) {
        fail(fmt::format("the header names '{}' twice", value.get<std::string>()));
      }
      return true;
    };
    Json header;
    try {
      header = Json::parse(text, note_names);
    } catch (const Json::exception& error) {
      fail(fmt::format("not a safetensors file: the header is not JSON: {}", error.what()));
    }
    if (!header.is_object()) fail("not a safetensors file: the header is not a JSON object");
    return header;
  }

  void read_metadata(const Json& entry) {
    if (!entry.is_object()) fail("the header's '__metadata__' is not a JSON object");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) fail(fmt::format("the metadata '{}' is not a string", key));
      file_.metadata[key] = value.get<std::string>();
    }
  }

  static bool is_count(const Json& value) {
    return value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX;
  }

  std::pair<int64_t, int64_t> read_tensor(const std::string& name, const Json& entry) {
    const auto wrong = [&](const char* what) {
      fail(fmt::format("tensor '{}': {} in the header", name, what));
    };
    if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
        !entry.contains("shape") || !entry.contains("data_offsets")) {
      wrong("expected dtype, shape and data_offsets");
    }
    SafetensorsTensor tensor{.name = name, .dtype = {}, .shape = {}, .data = {}};
    if (!entry["dtype"].is_string()) wrong("dtype is not a string");
    tensor.dtype = entry["dtype"].get<std::string>();
    const auto* const type =
        std::find_if(kTypeBytes.begin(), kTypeBytes.end(),
                     [&](const auto& known) { return known.first == tensor.dtype; });
    if (type == kTypeBytes.end()) wrong("unknown dtype");

    int64_t bytes = type->second;
    if (!entry["shape"].is_array()) wrong("shape is not an array");
    for (const Json& size : entry["shape"]) {
      if (!is_count(size)) wrong("shape has an entry that is no size");
      tensor.shape.push_back(size.get<int64_t>());
      if (__builtin_mul_overflow(bytes, tensor.shape.back(), &bytes)) wrong("shape is too large");
    }
    const Json& offsets = entry["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2 || !is_count(offsets[0]) ||
        !is_count(offsets[1])) {
      wrong("data_offsets are not two offsets");
    }
    const auto begin = offsets[0].get<int64_t>();
    const auto end = offsets[1].get<int64_t>();
    if (end < begin || end - begin != bytes) wrong("data_offsets disagree with dtype and shape");
    if (end > static_cast<int64_t>(data_.size())) {
      fail(fmt::format("truncated: tensor '{}' ends at byte {} of the data, but only {} are there",
                       name, end, data_.size()));
    }
    tensor.data = data_.substr(static_cast<size_t>(begin), static_cast<size_t>(bytes));
    file_.tensors.emplace(name, std::move(tensor));
    return {begin, end};
  }

  void check_ranges(std::vector<std::pair<int64_t, int64_t>>& ranges) const {
    std::sort(ranges.begin(), ranges.end());
    int64_t end = 0;
    for (const auto& range : ranges) {
      if (range.first != end)
        fail(fmt::format("tensors overlap or leave a gap at byte {} of the data", end));
      end = range.second;
    }
    if (end != static_cast<int64_t>(data_.size())) {
      fail(fmt::format("the tensors end at byte {} of the data, but {} are there", end,
                       data_.size()));
    }
  }

  std::string path_;
  SafetensorsFile& file_;
  std::string_view data_;
};

}  // namespace

std::string format_safetensors(const std::map<std::string, std::string>& metadata,
                               const std::vector<SafetensorsTensor>& tensors) {
  Json header;
  header[kMetadata] = metadata;
  size_t end = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {end, end + tensor.data.size()}}};
    end += tensor.data.size();
  }
  std::string text = header.dump();
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');

  std::string bytes;
  bytes.reserve(kLengthBytes + text.size() + end);
  for (size_t i = 0; i < kLengthBytes; ++i)
    bytes += static_cast<char>(text.size() >> (8 * i) & 0xff);
  bytes += text;
  for (const SafetensorsTensor& tensor : tensors) bytes += tensor.data;
  return bytes;
}

void read_safetensors(const std::filesystem::path& path, SafetensorsFile& file) {
  file.bytes = load_file(path);
  Reader(path.string(), file).read();
}

}  // namespace joint_recall
