#include <limits>

#include "data/batch.hpp"
#include "joint_recall/dataset_fixture.hpp"

namespace joint_recall {
namespace {

using Ints = std::vector<std::int32_t>;

class DatasetBatchTest : public DatasetTest {
 protected:
  static GeneratorArgs args(int n_value) {
    GeneratorArgs args = fixed_size_args(4, 3, n_value, 4, 1);
    args.min_n_context = 2;
    args.min_n_key = 2;
    return args;  // 6 sizes: 24 train items
  }

  // Batch by batch against the items themselves.
  static void expect_batch(const Split& split, const std::vector<std::int64_t>& items,
                           const PackedBatch& packed, const PaddedBatch& padded) {
    const int length = split.padded_length() - 1;
    ASSERT_EQ(packed.items(), static_cast<int>(items.size()));
    ASSERT_EQ(padded.items(), static_cast<int>(items.size()));
    ASSERT_EQ(padded.length, length);
    Ints inputs, targets, cu_seqlens = {0}, asked, asked_targets, offsets = {0};
    Ints padded_inputs, padded_targets, padded_asked;
    std::vector<std::uint8_t> attention_mask;
    for (const std::int64_t index : items) {
      const std::vector<int> tokens = split[index].tokens();
      const int separator = static_cast<int>(
          std::find(tokens.begin(), tokens.end(), kSeparatorToken) - tokens.begin());
      const int line = static_cast<int>(padded_inputs.size());
      for (int i = 0; i < length; ++i) {
        const bool real = i + 1 < static_cast<int>(tokens.size());
        const bool seen = i < static_cast<int>(tokens.size());
        padded_inputs.push_back(seen ? tokens[i] : kPaddingToken);
        padded_targets.push_back(real ? tokens[i + 1] : kPaddingToken);
        attention_mask.push_back(seen);
        if (!real) continue;
        if (i > separator && split.vocabulary().kind(tokens[i]) == TokenKind::kKey) {
          asked.push_back(static_cast<std::int32_t>(inputs.size()));
          padded_asked.push_back(line + i);
          asked_targets.push_back(tokens[i + 1]);
        }
        inputs.push_back(tokens[i]);
        targets.push_back(tokens[i + 1]);
      }
      cu_seqlens.push_back(static_cast<std::int32_t>(inputs.size()));
      offsets.push_back(static_cast<std::int32_t>(asked.size()));
    }
    EXPECT_EQ(packed.inputs, inputs);
    EXPECT_EQ(packed.targets, targets);
    EXPECT_EQ(packed.cu_seqlens, cu_seqlens);
    EXPECT_EQ(packed.asked.positions, asked);
    EXPECT_EQ(packed.asked.targets, asked_targets);
    EXPECT_EQ(packed.asked.offsets, offsets);
    EXPECT_EQ(packed.rows(), static_cast<int>(inputs.size()));
    EXPECT_EQ(padded.inputs, padded_inputs);
    EXPECT_EQ(padded.targets, padded_targets);
    EXPECT_EQ(padded.attention_mask, attention_mask);
    EXPECT_EQ(padded.asked.positions, padded_asked);
    EXPECT_EQ(padded.asked.targets, asked_targets);
    EXPECT_EQ(padded.asked.offsets, offsets);
    EXPECT_EQ(padded.rows(), static_cast<int>(padded_inputs.size()));
  }
};

TEST_F(DatasetBatchTest, ForeverWrapsAroundInFileOrder) {
  for (const int n_value : {5, 500}) {  // one and two bytes a token
    const Dataset dataset =
        create_dataset(folder_ / std::to_string(n_value), args(n_value)).dataset;
    for (const std::int64_t batch_size : {1, 5, 24, 60}) {
      const BatchIterator batches(dataset.train, batch_size, Repeat::kForever);
      PackedBatch packed;
      PaddedBatch padded;
      std::int64_t next = 0;
      for (std::int64_t step = 0; step < 12; ++step) {
        std::vector<std::int64_t> items;
        for (std::int64_t i = 0; i < batch_size; ++i) items.push_back(next++ % 24);
        EXPECT_EQ(batches.batch_items(step), batch_size);
        batches.fill(step, packed);
        batches.fill(step, padded);
        expect_batch(dataset.train, items, packed, padded);
      }
    }
  }
}

TEST_F(DatasetBatchTest, OnceEndsWithAShortBatch) {
  const Dataset dataset = create_dataset(folder_, args(5)).dataset;
  const BatchIterator batches(dataset.train, 10, Repeat::kOnce);
  ASSERT_EQ(batches.batches_per_pass(), 3);
  PackedBatch packed;
  PaddedBatch padded;
  std::int64_t next = 0;
  for (std::int64_t step = 0; step < 3; ++step) {
    std::vector<std::int64_t> items;
    for (int i = 0; i < 10 && next < 24; ++i) items.push_back(next++);
    EXPECT_EQ(batches.batch_items(step), static_cast<std::int64_t>(items.size()));
    batches.fill(step, packed);
    batches.fill(step, padded);
    expect_batch(dataset.train, items, packed, padded);
  }
  EXPECT_EQ(next, 24);
  EXPECT_TRUE(contains(error_of([&] { batches.fill(3, packed); }), "there is no batch 3"));
}

TEST_F(DatasetBatchTest, AnyStepInAnyOrderGivesTheSame) {
  const Dataset dataset = create_dataset(folder_, args(5)).dataset;
  const BatchIterator batches(dataset.train, 7, Repeat::kForever);
  PackedBatch in_order, jumped;
  batches.fill(0, in_order);
  batches.fill(1, in_order);
  batches.fill(40, in_order);
  BatchIterator(dataset.train, 7, Repeat::kForever).fill(40, jumped);
  EXPECT_EQ(in_order.inputs, jumped.inputs);
  EXPECT_EQ(in_order.cu_seqlens, jumped.cu_seqlens);
  EXPECT_EQ(in_order.asked.positions, jumped.asked.positions);

  // 7 (2^63 - 1) mod 24 = 1, though the product doesn't fit 64 bits
  const std::int64_t last = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(batches.item_index(last, 0), 1);
  EXPECT_EQ(batches.item_index(last, 23), 0);
}

TEST_F(DatasetBatchTest, BadArguments) {
  const Dataset dataset = create_dataset(folder_, args(5)).dataset;
  const auto error = [&](std::int64_t batch_size) {
    return error_of([&] { BatchIterator(dataset.train, batch_size, Repeat::kForever); });
  };
  EXPECT_TRUE(contains(error(0), "the batch size must be between 1 and"));
  EXPECT_TRUE(contains(error(-1), "but it is -1"));
  EXPECT_TRUE(contains(error(1LL << 40), "the batch size must be between 1 and"));
  PackedBatch packed;
  EXPECT_TRUE(contains(
      error_of([&] { BatchIterator(dataset.train, 2, Repeat::kForever).fill(-1, packed); }),
      "there is no batch -1"));
}

}  // namespace
}  // namespace joint_recall
