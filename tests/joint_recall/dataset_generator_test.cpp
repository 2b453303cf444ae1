#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "joint_recall/dataset_fixture.hpp"

namespace joint_recall {
namespace {

// The official generator written once more, step by step as it is described, without a thought for
// speed.
class PlainGenerator {
 public:
  explicit PlainGenerator(const GeneratorArgs& args)
      : args_(args), engine_(static_cast<std::uint32_t>(args.seed)) {}

  std::vector<std::vector<std::vector<int>>> splits() {
    std::vector<std::vector<std::vector<int>>> splits;
    for (const std::int64_t per_pair : {args_.n_train_per_context_key, args_.n_test_per_context_key,
                                        args_.n_test_per_context_key}) {
      splits.emplace_back();
      duplicates.push_back(0);
      for (std::int64_t round = 0; round < per_pair; ++round) {
        for (std::int64_t c = args_.min_n_context; c <= args_.max_n_context; ++c) {
          for (std::int64_t k = args_.min_n_key; k <= args_.max_n_key; ++k) {
            std::vector<int> item = draw(c, k);
            while (!seen_.insert(item).second) {
              ++duplicates.back();
              item = draw(c, k);
            }
            splits.back().push_back(item);
          }
        }
      }
    }
    return splits;
  }

  std::vector<std::int64_t> duplicates;

 private:
  std::int64_t below(std::int64_t limit) {
    if (limit == 1) return 0;
    const auto bits = static_cast<int>(std::floor(std::log2(limit - 1))) + 1;
    while (true) {
      const auto draw = static_cast<std::int64_t>(engine_() % (std::uint64_t{1} << bits));
      if (draw < limit) return draw;
    }
  }

  std::vector<std::int64_t> order(std::int64_t n) {
    std::vector<std::int64_t> numbers(static_cast<std::size_t>(n));
    std::iota(numbers.begin(), numbers.end(), 0);
    for (std::int64_t last = n - 1; last >= 1; --last) {
      std::swap(numbers.at(last), numbers.at(below(last + 1)));
    }
    return numbers;
  }

  std::vector<int> draw(std::int64_t n_context, std::int64_t n_key) {
    std::vector<std::vector<std::int64_t>> table(n_context, std::vector<std::int64_t>(n_key));
    for (auto& row : table) {
      for (std::int64_t& value : row) value = below(args_.n_value);
    }
    std::vector<std::int64_t> item = {1};
    for (int half = 0; half < 2; ++half) {
      for (const std::int64_t c : order(n_context)) {
        item.push_back(10 + args_.n_value + args_.max_n_key + c);
        for (const std::int64_t k : order(n_key)) {
          item.push_back(10 + args_.n_value + k);
          item.push_back(10 + table.at(c).at(k));
        }
      }
      if (half == 0) item.push_back(4);
    }
    return {item.begin(), item.end()};
  }

  GeneratorArgs args_;
  std::mt19937 engine_;
  std::set<std::vector<int>> seen_;
};

using DatasetGeneratorTest = DatasetTest;

void expect_plain(const std::filesystem::path& folder, const GeneratorArgs& args,
                  bool with_duplicates) {
  const Dataset dataset = create_dataset(folder, args).dataset;
  PlainGenerator plain(args);
  const auto expected = plain.splits();
  const std::string manifest = read_file(folder / "dataset.json");
  for (const SplitName name : kSplitNames) {
    const auto i = static_cast<std::size_t>(name);
    EXPECT_EQ(all_items(dataset.split(name)), expected[i]) << to_string(name);
    EXPECT_TRUE(contains(
        manifest, "\"duplicates_drawn_again\": " + std::to_string(plain.duplicates[i]) + ","));
    EXPECT_GE(plain.duplicates[i], with_duplicates ? 1 : 0) << to_string(name);
  }
}

TEST_F(DatasetGeneratorTest, DuplicatesAreDrawnAgainOverAllSplits) {
  // 2 values, 2 contexts, 1 key: 4 tables x 4 orders, all 16 of them are asked for
  expect_plain(folder_ / "a", fixed_size_args(2, 1, 2, 8, 4), true);
  // several sizes: 1 x 1 has 3 items, and all are asked for
  GeneratorArgs args = fixed_size_args(1, 1, 3, 1, 1);
  args.max_n_context = 3;
  args.max_n_key = 2;
  args.seed = 11;
  expect_plain(folder_ / "b", args, false);
  // 1 context, 3 keys, 2 values: 8 x 36 items
  expect_plain(folder_ / "c", fixed_size_args(1, 3, 2, 200, 40), true);
  // two bytes a token: many items that differ in their second half only
  expect_plain(folder_ / "d", fixed_size_args(2, 1, 250, 2000, 500), true);
}

TEST_F(DatasetGeneratorTest, FixedSizeTables) {
  const GeneratorArgs args = fixed_size_args(4, 4, 8, 100, 20);
  expect_plain(folder_, args, false);
  const Dataset dataset = open_dataset(folder_);
  EXPECT_EQ(dataset.train.size(), 100);
  EXPECT_EQ(dataset.valid.size(), 20);
  EXPECT_EQ(dataset.test.size(), 20);
  EXPECT_EQ(dataset.padded_length(), 74);
  EXPECT_EQ(dataset.vocabulary().size(), 26);
  for (std::int64_t i = 0; i < 100; ++i) EXPECT_EQ(dataset.train[i].shape(), (ItemShape{4, 4}));
}

TEST_F(DatasetGeneratorTest, LargeVocabulariesTakeTwoBytes) {
  GeneratorArgs args = fixed_size_args(3, 5, 238, 30, 10);
  args.max_n_context = 4;
  EXPECT_EQ(args.vocabulary().size(), 257);
  EXPECT_EQ(args.vocabulary().token_bytes(), 2);
  expect_plain(folder_ / "257", args, false);
  args.n_value = 237;
  EXPECT_EQ(args.vocabulary().token_bytes(), 1);
  expect_plain(folder_ / "256", args, false);
  args.n_value = 65536 - 19;
  expect_plain(folder_ / "65536", args, false);
}

TEST(ItemOrder, AgreesWithCountingItemByItem) {
  for (const ItemOrder& order : {ItemOrder{5, 16, 5, 16}, ItemOrder{1, 1, 1, 1},
                                 ItemOrder{2, 7, 3, 4}, ItemOrder{4, 4, 1, 9}}) {
    std::int64_t index = 0;
    std::int64_t tokens = 0;
    for (int round = 0; round < 3; ++round) {
      for (int c = order.min_n_context; c <= order.max_n_context; ++c) {
        for (int k = order.min_n_key; k <= order.max_n_key; ++k) {
          EXPECT_EQ(order.shape(index), (ItemShape{c, k}));
          EXPECT_EQ(order.first_token(index), tokens);
          tokens += 2 * c * (2 * k + 1) + 2;
          ++index;
        }
      }
    }
    EXPECT_EQ(order.items_per_round() * 3, index);
    EXPECT_EQ(order.tokens_per_round() * 3, tokens);
  }
}

TEST(Vocabulary, KindsAndTexts) {
  const Vocabulary vocabulary{8, 4, 3};
  EXPECT_EQ(vocabulary.size(), 25);
  const std::vector<std::pair<int, std::string>> texts = {
      {1, "start"}, {3, "pad"}, {4, "sep"}, {10, "v0"}, {17, "v7"}, {18, "k0"}, {21, "k3"},
      {22, "c0"},   {24, "c2"}, {0, "?0"},  {2, "?2"},  {9, "?9"},  {25, "?25"}};
  for (const auto& [token, text] : texts) EXPECT_EQ(vocabulary.text(token), text);
}

TEST(GeneratorArgs, BadOnesAreNamed) {
  const auto error = [](auto change) {
    GeneratorArgs args;
    change(args);
    return error_of([&] { check_args(args); });
  };
  EXPECT_NO_THROW(check_args({}));
  EXPECT_TRUE(contains(error([](auto& a) { a.n_value = 0; }), "n_value must be between 1 and"));
  EXPECT_TRUE(contains(error([](auto& a) { a.max_n_key = -3; }), "max_n_key must be between 1"));
  EXPECT_TRUE(contains(error([](auto& a) { a.max_n_context = 1LL << 40; }), "max_n_context must"));
  EXPECT_TRUE(
      contains(error([](auto& a) { a.seed = -1; }), "seed must be between 0 and 4294967295"));
  EXPECT_TRUE(contains(error([](auto& a) { a.seed = 1LL << 32; }), "it is 4294967296"));
  EXPECT_TRUE(contains(error([](auto& a) { a.n_train_per_context_key = 0; }),
                       "n_train_per_context_key must be between 1"));
  EXPECT_TRUE(contains(error([](auto& a) { a.n_test_per_context_key = 0; }),
                       "n_test_per_context_key must be between 1"));
  EXPECT_TRUE(contains(error([](auto& a) { a.max_n_context = 4; }),
                       "min_n_context must be between 1 and max_n_context (4), but it is 5"));
  EXPECT_TRUE(contains(error([](auto& a) { a.min_n_key = 0; }), "min_n_key must be between 1"));
  EXPECT_TRUE(contains(error([](auto& a) { a.n_value = 65520; }), "make 65562 token ids"));
  EXPECT_TRUE(contains(error([](auto& a) { a.max_n_context = a.max_n_key = 30000; }),
                       "make items of 3600060002 tokens"));
  EXPECT_TRUE(contains(error([](auto& a) {
                         a.n_train_per_context_key = 1'000'000'000;
                         a.max_n_context = a.max_n_key = 100;
                       }),
                       "more than 281474976710656 tokens"));
}

TEST(GeneratorArgs, MoreItemsThanExistAreRefused) {
  // 2 x 1 tables of 2 values in 4 orders
  EXPECT_NO_THROW(check_args(fixed_size_args(2, 1, 2, 14, 1)));
  EXPECT_TRUE(contains(error_of([] { check_args(fixed_size_args(2, 1, 2, 15, 1)); }),
                       "17 items of 2 contexts x 1 keys"));
  // 1 x 3 tables of 1 value: 6 orders in each half
  EXPECT_NO_THROW(check_args(fixed_size_args(1, 3, 1, 34, 1)));
  EXPECT_TRUE(contains(error_of([] { check_args(fixed_size_args(1, 3, 1, 35, 1)); }),
                       "only 36 different ones exist"));
  // Counting stops long before numbers overflow.
  EXPECT_NO_THROW(check_args(fixed_size_args(1000, 1000, 60000, 1, 1)));
}

TEST_F(DatasetGeneratorTest, ProgressCountsUpAndCanStop) {
  const GeneratorArgs args = fixed_size_args(2, 2, 16, 9000, 500);
  std::vector<std::int64_t> seen;
  create_dataset(folder_ / "whole", args, [&](std::int64_t done, std::int64_t total) {
    EXPECT_EQ(total, 10000);
    seen.push_back(done);
    return true;
  });
  ASSERT_GT(seen.size(), 2u);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.back(), 10000);

  const auto stop = [](std::int64_t, std::int64_t) { return false; };
  EXPECT_TRUE(contains(error_of([&] { create_dataset(folder_ / "stopped", args, stop); }),
                       "stopped after"));
  EXPECT_TRUE(names_in(folder_ / "stopped").empty());
}

TEST(Generate, WrongOutputSizeIsRefused) {
  std::vector<std::byte> bytes(10);
  std::array<SplitOutput, 3> outputs = {SplitOutput{bytes}, SplitOutput{bytes}, SplitOutput{bytes}};
  EXPECT_TRUE(contains(error_of([&] { generate(fixed_size_args(2, 2, 4, 1, 1), outputs); }),
                       "split train needs 22 bytes, but its output has 10"));
}

}  // namespace
}  // namespace joint_recall
