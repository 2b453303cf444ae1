#include "data/manifest.hpp"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <string>

#include "data/dataset_error.hpp"
#include "data/files.hpp"
#include "data/split_file.hpp"

namespace joint_recall {
namespace {

using Json = nlohmann::ordered_json;

// Reads fields of the parsed file and names them in errors.
class Reader {
 public:
  Reader(std::string source, const Json& object, std::string prefix = "")
      : source_(std::move(source)), object_(object), prefix_(std::move(prefix)) {
    if (!object_.is_object()) fail("is not an object", prefix_.empty() ? "the top level" : prefix_);
  }

  Reader object(const std::string& name) const { return {source_, at(name), path(name)}; }

  std::int64_t integer(const std::string& name) const {
    const Json& value = at(name);
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() || value.get<std::uint64_t>() <= INT64_MAX);
    if (!fits) fail("must be an integer, but it is " + value.dump(), path(name));
    return value.get<std::int64_t>();
  }

  std::string text(const std::string& name) const {
    const Json& value = at(name);
    if (!value.is_string()) fail("must be a string, but it is " + value.dump(), path(name));
    return value.get<std::string>();
  }

  std::uint64_t hex(const std::string& name) const {
    const std::string digits = text(name);
    std::uint64_t number = 0;
    const char* const end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, number, 16);
    if (error != std::errc{} || stop != end || digits.size() != 16) {
      fail("must be 16 hexadecimal digits, but it is \"" + digits + "\"", path(name));
    }
    return number;
  }

  void expect(const Json& expected) const {
    for (const auto& [name, wanted] : expected.items()) {
      const Json& value = at(name);
      if (value != wanted) {
        fail(fmt::format("is {}, expected {}", value.dump(), wanted.dump()), path(name));
      }
    }
  }

 private:
  const Json& at(const std::string& name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) fail("is missing", path(name));
    return *found;
  }
  std::string path(const std::string& name) const {
    return prefix_.empty() ? name : prefix_ + "." + name;
  }
  [[noreturn]] void fail(const std::string& problem, const std::string& field) const {
    throw DatasetError(fmt::format("{}: {} {}", source_, field, problem));
  }

  std::string source_;
  const Json& object_;
  std::string prefix_;
};

Json format_facts() { return {{"format", "joint_recall dataset"}, {"format_version", 1}}; }

Json split_facts(const GeneratorArgs& args, SplitName split) {
  return {{"file", split_file_name(split)},
          {"items", args.items(split)},
          {"tokens", args.order().first_token(args.items(split))},
          {"bytes", split_file_bytes(args, split)}};
}

Json dataset_facts(const GeneratorArgs& args) {
  return {{"vocab_size", args.vocabulary().size()},
          {"padded_length", args.order().padded_length()},
          {"token_bytes", args.vocabulary().token_bytes()}};
}

}  // namespace

void write_manifest(const std::filesystem::path& path, const Manifest& manifest) {
  Json json = format_facts();
  for (const ArgField& field : kArgFields) json["args"][field.name] = manifest.args.*field.member;
  json.update(dataset_facts(manifest.args));
  for (const SplitName name : kSplitNames) {
    const Manifest::SplitEntry& entry = manifest.splits[static_cast<std::size_t>(name)];
    Json& split = json["splits"][to_string(name)];
    split = split_facts(manifest.args, name);
    split["duplicates_drawn_again"] = entry.duplicates;
    split["xxh64"] = fmt::format("{:016x}", entry.checksum);
  }
  FileWriter file(path);
  file.write(json.dump(2) + "\n");
  file.close();
}

Manifest read_manifest(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw DatasetError(fmt::format("{}: it is not valid JSON: {}", path.string(), error.what()));
  }

  const Reader top(path.string(), json);
  top.expect(format_facts());
  Manifest manifest;
  const Reader args = top.object("args");
  for (const ArgField& field : kArgFields) manifest.args.*field.member = args.integer(field.name);
  try {
    check_args(manifest.args);
  } catch (const DatasetError& error) {
    throw DatasetError(fmt::format("{}: args: {}", path.string(), error.what()));
  }
  top.expect(dataset_facts(manifest.args));
  const Reader splits = top.object("splits");
  for (const SplitName name : kSplitNames) {
    const Reader split = splits.object(to_string(name));
    split.expect(split_facts(manifest.args, name));
    manifest.splits[static_cast<std::size_t>(name)] = {split.integer("duplicates_drawn_again"),
                                                       split.hex("xxh64")};
  }
  return manifest;
}

}  // namespace joint_recall
