#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/generator.hpp"
#include "data/vocabulary.hpp"

namespace joint_recall {

// One item, without padding: a view into its split.
class Item {
 public:
  Item(const std::byte* data, int token_bytes, ItemShape shape)
      : data_(data), token_bytes_(token_bytes), shape_(shape) {}

  const ItemShape& shape() const { return shape_; }  // also tells the asked positions
  int size() const { return shape_.length(); }
  int token(int position) const {
    if (token_bytes_ == 1) return std::to_integer<int>(data_[position]);
    return reinterpret_cast<const std::uint16_t*>(data_)[position];
  }
  std::vector<int> tokens() const;
  // tokens [begin, begin + out.size())
  void copy_tokens(int begin, std::span<std::int32_t> out) const;

 private:
  const std::byte* data_;
  int token_bytes_;
  ItemShape shape_;
};

// The items of one split in file order. Copies share the memory, which lives as long as any of
// them.
class Split {
 public:
  // `tokens`: items in `order` one after the other; `owner` keeps them alive; `source` names the
  // file in errors.
  Split(std::string source, const Vocabulary& vocabulary, const ItemOrder& order,
        std::int64_t items, std::span<const std::byte> tokens, std::shared_ptr<const void> owner);

  std::int64_t size() const { return items_; }
  Item operator[](std::int64_t index) const;  // DatasetError when out of range

  const Vocabulary& vocabulary() const { return vocabulary_; }
  const ItemOrder& order() const { return order_; }
  int padded_length() const { return order_.padded_length(); }
  std::span<const std::byte> token_data() const { return tokens_; }
  const std::string& source() const { return source_; }

 private:
  std::string source_;
  Vocabulary vocabulary_;
  ItemOrder order_;
  std::int64_t items_;
  std::span<const std::byte> tokens_;
  std::shared_ptr<const void> owner_;
};

struct Dataset {
  GeneratorArgs args;
  Split train;
  Split valid;
  Split test;

  Vocabulary vocabulary() const { return args.vocabulary(); }
  int padded_length() const { return args.order().padded_length(); }
  const Split& split(SplitName name) const;
};

struct OpenOptions {
  bool verify_checksum = true;  // reads every byte once
};

// Opens a folder written by create_dataset, or one with the official text files.
Dataset open_dataset(const std::filesystem::path& folder, const OpenOptions& options = {});

struct CreatedDataset {
  Dataset dataset;
  bool reused = false;
};

// Generates a data set into `folder` (made when missing) and opens it. A complete one with the same
// arguments is reused; one with others, or files that get in the way, are an error: nothing is ever
// overwritten. When it fails or `progress` stops it, no new file remains.
CreatedDataset create_dataset(const std::filesystem::path& folder, const GeneratorArgs& args,
                              const Progress& progress = {}, const OpenOptions& options = {});

}  // namespace joint_recall
