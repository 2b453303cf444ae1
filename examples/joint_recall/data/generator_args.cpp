#include <fmt/format.h>

#include <limits>

#include "data/dataset_error.hpp"
#include "data/generator.hpp"

namespace joint_recall {

const char* to_string(SplitName split) {
  switch (split) {
    case SplitName::kTrain: return "train";
    case SplitName::kValid: return "valid";
    case SplitName::kTest: break;
  }
  return "test";
}

Vocabulary GeneratorArgs::vocabulary() const {
  return {static_cast<int>(n_value), static_cast<int>(max_n_key), static_cast<int>(max_n_context)};
}

ItemOrder GeneratorArgs::order() const {
  return {static_cast<int>(min_n_context), static_cast<int>(max_n_context),
          static_cast<int>(min_n_key), static_cast<int>(max_n_key)};
}

std::int64_t GeneratorArgs::items(SplitName split) const {
  return order().items_per_round() *
         (split == SplitName::kTrain ? n_train_per_context_key : n_test_per_context_key);
}

namespace {

constexpr std::int64_t kMaxVocabulary = 65536;
constexpr std::int64_t kMaxPerPair = 1'000'000'000;
constexpr std::int64_t kMaxTokens = std::int64_t{1} << 48;

void require_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) {
    throw DatasetError(
        fmt::format("{} must be between {} and {}, but it is {}", name, low, high, value));
  }
}

class CappedProduct {
 public:
  explicit CappedProduct(std::int64_t cap) : cap_(cap) {}
  void multiply(std::int64_t factor, std::int64_t times = 1) {
    if (factor == 1) return;
    for (std::int64_t i = 0; i < times && product_ < cap_; ++i) {
      product_ = product_ > cap_ / factor ? cap_ : product_ * factor;
    }
  }
  std::int64_t value() const { return product_; }

 private:
  std::int64_t cap_;
  std::int64_t product_ = 1;
};

// How many different items of a shape there are (tables times orders), at most `cap`.
std::int64_t distinct_items(const ItemShape& shape, std::int64_t n_value, std::int64_t cap) {
  CappedProduct count(cap);
  count.multiply(n_value, shape.asked_count());
  for (int n = 2; n <= shape.n_context; ++n) count.multiply(n, 2);
  for (int n = 2; n <= shape.n_key; ++n) count.multiply(n, 2 * shape.n_context);
  return count.value();
}

void check_enough_distinct_items(const GeneratorArgs& args) {
  const std::int64_t wanted = args.n_train_per_context_key + 2 * args.n_test_per_context_key;
  // The smallest table has the fewest items.
  const ItemShape smallest = args.order().shape(0);
  const std::int64_t distinct = distinct_items(smallest, args.n_value, wanted);
  if (distinct < wanted) {
    throw DatasetError(fmt::format(
        "{} items of {} contexts x {} keys are wanted (n_train_per_context_key {} + 2 x "
        "n_test_per_context_key {}), but with n_value {} only {} different ones exist",
        wanted, smallest.n_context, smallest.n_key, args.n_train_per_context_key,
        args.n_test_per_context_key, args.n_value, distinct));
  }
}

}  // namespace

void check_args(const GeneratorArgs& args) {
  for (const auto& [name, member] : {kArgFields[0], kArgFields[1], kArgFields[2]}) {
    require_range(name, args.*member, 1, kMaxVocabulary);
  }
  require_range("n_train_per_context_key", args.n_train_per_context_key, 1, kMaxPerPair);
  require_range("n_test_per_context_key", args.n_test_per_context_key, 1, kMaxPerPair);
  require_range("seed", args.seed, 0, std::numeric_limits<std::uint32_t>::max());
  for (const auto& [name, low, high] :
       {std::tuple{"context", args.min_n_context, args.max_n_context},
        std::tuple{"key", args.min_n_key, args.max_n_key}}) {
    if (low < 1 || low > high) {
      throw DatasetError(fmt::format(
          "min_n_{0} must be between 1 and max_n_{0} ({1}), but it is {2}", name, high, low));
    }
  }

  const std::int64_t vocabulary =
      kFirstValueToken + args.n_value + args.max_n_key + args.max_n_context;
  if (vocabulary > kMaxVocabulary) {
    throw DatasetError(fmt::format(
        "n_value {} + max_n_key {} + max_n_context {} + {} make {} token ids; at most {} fit",
        args.n_value, args.max_n_key, args.max_n_context, kFirstValueToken, vocabulary,
        kMaxVocabulary));
  }
  const std::int64_t padded_length = 2 * args.max_n_context * (2 * args.max_n_key + 1) + 2;
  if (padded_length > std::numeric_limits<std::int32_t>::max()) {
    throw DatasetError(
        fmt::format("max_n_context {} and max_n_key {} make items of {} tokens; at most {} fit",
                    args.max_n_context, args.max_n_key, padded_length,
                    std::numeric_limits<std::int32_t>::max()));
  }
  const std::int64_t rounds = args.n_train_per_context_key + 2 * args.n_test_per_context_key;
  if (args.order().tokens_per_round() > kMaxTokens / rounds) {
    throw DatasetError(fmt::format(
        "the data set would have more than {} tokens: lower n_train_per_context_key {}, "
        "n_test_per_context_key {}, max_n_context {} or max_n_key {}",
        kMaxTokens, args.n_train_per_context_key, args.n_test_per_context_key, args.max_n_context,
        args.max_n_key));
  }
  check_enough_distinct_items(args);
}

}  // namespace joint_recall
