#include "data/dataset.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "data/checksum.hpp"
#include "data/dataset_error.hpp"
#include "data/files.hpp"
#include "data/manifest.hpp"
#include "data/split_file.hpp"
#include "data/text_format.hpp"

namespace joint_recall {
namespace {

namespace fs = std::filesystem;

Dataset open_binary(const fs::path& folder, const OpenOptions& options) {
  const Manifest manifest = read_manifest(folder / kManifestName);
  const auto open = [&](SplitName name) {
    return open_split_file(folder / split_file_name(name), manifest.args, name,
                           manifest.splits[static_cast<std::size_t>(name)].checksum, options);
  };
  return {manifest.args, open(SplitName::kTrain), open(SplitName::kValid), open(SplitName::kTest)};
}

void check_same_args(const fs::path& manifest, const GeneratorArgs& found,
                     const GeneratorArgs& wanted) {
  std::string differences;
  for (const ArgField& field : kArgFields) {
    if (found.*field.member == wanted.*field.member) continue;
    differences += fmt::format("{}{} is {}, wanted {}", differences.empty() ? "" : "; ", field.name,
                               found.*field.member, wanted.*field.member);
  }
  if (!differences.empty()) {
    throw DatasetError(fmt::format(
        "{} describes a data set with other arguments ({}); choose another folder or remove it",
        manifest.string(), differences));
  }
}

void write_new_dataset(const fs::path& folder, const GeneratorArgs& args,
                       const Progress& progress) {
  NewFiles new_files(folder);
  std::vector<MappedFile> files;
  std::array<SplitOutput, 3> outputs;
  for (const SplitName name : kSplitNames) {
    files.push_back(MappedFile::create(new_files.temporary(split_file_name(name)),
                                       split_file_bytes(args, name)));
    write_split_header(args, name, files.back());
    outputs[static_cast<std::size_t>(name)].tokens =
        files.back().writable_bytes().subspan(kSplitHeaderBytes);
  }
  generate(args, outputs, progress);

  Manifest manifest{args, {}};
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    manifest.splits[i] = {outputs[i].duplicates, xxh64(files[i].bytes())};
  }
  files.clear();
  write_manifest(new_files.temporary(kManifestName), manifest);
  new_files.commit();
}

}  // namespace

std::vector<int> Item::tokens() const {
  std::vector<int> all(static_cast<std::size_t>(size()));
  copy_tokens(0, all);
  return all;
}

void Item::copy_tokens(int begin, std::span<std::int32_t> out) const {
  if (token_bytes_ == 1) {
    const auto* const from = reinterpret_cast<const std::uint8_t*>(data_) + begin;
    std::copy_n(from, out.size(), out.begin());
  } else {
    const auto* const from = reinterpret_cast<const std::uint16_t*>(data_) + begin;
    std::copy_n(from, out.size(), out.begin());
  }
}

Split::Split(std::string source, const Vocabulary& vocabulary, const ItemOrder& order,
             std::int64_t items, std::span<const std::byte> tokens,
             std::shared_ptr<const void> owner)
    : source_(std::move(source)),
      vocabulary_(vocabulary),
      order_(order),
      items_(items),
      tokens_(tokens),
      owner_(std::move(owner)) {
  const std::int64_t expected = order_.first_token(items_) * vocabulary_.token_bytes();
  if (static_cast<std::int64_t>(tokens_.size()) != expected) {
    throw DatasetError(fmt::format("{}: {} items take {} bytes of tokens, but there are {}",
                                   source_, items_, expected, tokens_.size()));
  }
}

Item Split::operator[](std::int64_t index) const {
  if (index < 0 || index >= items_) {
    throw DatasetError(fmt::format("{} has {} items; there is no item {}", source_, items_, index));
  }
  const int token_bytes = vocabulary_.token_bytes();
  return {tokens_.data() + order_.first_token(index) * token_bytes, token_bytes,
          order_.shape(index)};
}

const Split& Dataset::split(SplitName name) const {
  if (name == SplitName::kTrain) return train;
  return name == SplitName::kValid ? valid : test;
}

Dataset open_dataset(const fs::path& folder, const OpenOptions& options) {
  if (!path_exists(folder)) throw DatasetError("there is no folder " + folder.string());
  if (!fs::is_directory(folder)) throw DatasetError(folder.string() + " is not a folder");
  if (path_exists(folder / kManifestName)) return open_binary(folder, options);
  const std::vector<TextFiles> sets = find_text_files(folder);
  if (sets.size() == 1) return read_text(sets.front());
  if (sets.empty()) {
    throw DatasetError(fmt::format("{} holds no data set: neither {} nor text files named {}",
                                   folder.string(), kManifestName,
                                   "max_n_context_*_max_n_key_*_seed_*_train_inputs.txt"));
  }
  std::string names;
  for (const TextFiles& files : sets) names += "\n  " + files.prefix();
  throw DatasetError(fmt::format("{} holds {} data sets in text form, one is expected:{}",
                                 folder.string(), sets.size(), names));
}

CreatedDataset create_dataset(const fs::path& folder, const GeneratorArgs& args,
                              const Progress& progress, const OpenOptions& options) {
  check_args(args);
  make_folder(folder);
  const FolderLock lock(folder);
  const fs::path manifest = folder / kManifestName;
  const bool reuse = path_exists(manifest);
  if (reuse) {
    check_same_args(manifest, read_manifest(manifest).args, args);
  } else {
    write_new_dataset(folder, args, progress);
  }
  return {open_binary(folder, reuse ? options : OpenOptions{.verify_checksum = false}), reuse};
}

}  // namespace joint_recall
