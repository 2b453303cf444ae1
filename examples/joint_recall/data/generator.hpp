#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "data/vocabulary.hpp"

namespace joint_recall {

enum class SplitName { kTrain, kValid, kTest };
inline constexpr std::array kSplitNames = {SplitName::kTrain, SplitName::kValid, SplitName::kTest};
const char* to_string(SplitName split);

// The official generator's arguments under their own names, and the smallest table sizes, which it
// fixes at 5.
struct GeneratorArgs {
  std::int64_t max_n_context = 16;
  std::int64_t max_n_key = 16;
  std::int64_t n_value = 16;
  std::int64_t n_train_per_context_key = 10000;
  std::int64_t n_test_per_context_key = 100;
  std::int64_t seed = 1;
  std::int64_t min_n_context = 5;
  std::int64_t min_n_key = 5;

  bool operator==(const GeneratorArgs&) const = default;

  // Valid only for arguments that check_args accepts.
  Vocabulary vocabulary() const;
  ItemOrder order() const;
  std::int64_t items(SplitName split) const;
};

struct ArgField {
  const char* name;
  std::int64_t GeneratorArgs::*member;
};
inline constexpr std::array<ArgField, 8> kArgFields = {{
    {"max_n_context", &GeneratorArgs::max_n_context},
    {"max_n_key", &GeneratorArgs::max_n_key},
    {"n_value", &GeneratorArgs::n_value},
    {"n_train_per_context_key", &GeneratorArgs::n_train_per_context_key},
    {"n_test_per_context_key", &GeneratorArgs::n_test_per_context_key},
    {"seed", &GeneratorArgs::seed},
    {"min_n_context", &GeneratorArgs::min_n_context},
    {"min_n_key", &GeneratorArgs::min_n_key},
}};

// Throws DatasetError naming the argument, also when more distinct items are asked for than exist.
void check_args(const GeneratorArgs& args);

// Called every few thousand items; returning false stops the work with a DatasetError.
using Progress = std::function<bool(std::int64_t done, std::int64_t total)>;

// Where generate() puts a split: items without padding, one after the other, one or two bytes a
// token (args.vocabulary().token_bytes()).
struct SplitOutput {
  std::span<std::byte> tokens;
  std::int64_t duplicates = 0;  // set by generate(): items that had to be drawn again
};

// Draws all three splits from one random stream; no two items of the whole set are equal.
void generate(const GeneratorArgs& args, std::array<SplitOutput, 3>& splits,
              const Progress& progress = {});

}  // namespace joint_recall
