#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "data/dataset_error.hpp"

namespace joint_recall {

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_file(const std::filesystem::path& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  ASSERT_TRUE(file.flush()) << path;
}

// Runs `action`, which must throw a DatasetError, and returns its text.
template <class Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const DatasetError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no DatasetError was thrown";
  return {};
}

inline ::testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << part << "\" is not in \"" << text << "\"";
}

inline std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

inline std::vector<std::vector<int>> all_items(const Split& split) {
  std::vector<std::vector<int>> items;
  for (std::int64_t i = 0; i < split.size(); ++i) items.push_back(split[i].tokens());
  return items;
}

inline void expect_equal(const Dataset& a, const Dataset& b) {
  EXPECT_EQ(a.args, b.args);
  for (const SplitName name : kSplitNames) {
    EXPECT_EQ(all_items(a.split(name)), all_items(b.split(name))) << to_string(name);
  }
}

inline GeneratorArgs fixed_size_args(int n_context, int n_key, int n_value, int n_train,
                                     int n_test) {
  GeneratorArgs args;
  args.min_n_context = args.max_n_context = n_context;
  args.min_n_key = args.max_n_key = n_key;
  args.n_value = n_value;
  args.n_train_per_context_key = n_train;
  args.n_test_per_context_key = n_test;
  return args;
}

// A fresh folder for each test, removed after it.
class DatasetTest : public ::testing::Test {
 protected:
  DatasetTest() {
    std::string name = (std::filesystem::temp_directory_path() / "joint_recall_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    folder_ = name;
  }
  ~DatasetTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::filesystem::path folder_;
};

}  // namespace joint_recall
