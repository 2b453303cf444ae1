// Small joint-recall batches for model tests.
#pragma once

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "model/batch_view.hpp"
#include "model/model.hpp"
#include "model_test_backend.hpp"

namespace joint_recall {

struct TestItem {
  std::vector<int32_t> tokens;
  std::vector<int32_t> asked;  // positions of the second half's keys
};

// The tables and orders of joint recall, drawn from a stream of the test's own.
inline TestItem make_item(std::mt19937& random, int contexts, int keys, int values) {
  std::vector<int32_t> table(static_cast<size_t>(contexts * keys));
  for (int32_t& value : table)
    value = 10 + static_cast<int32_t>(random() % static_cast<unsigned>(values));
  const auto shuffled = [&](int count) {
    std::vector<int32_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    return order;
  };
  TestItem item;
  item.tokens.push_back(1);
  for (int half = 0; half < 2; ++half) {
    if (half == 1) item.tokens.push_back(4);
    for (const int32_t context : shuffled(contexts)) {
      item.tokens.push_back(10 + values + keys + context);
      for (const int32_t key : shuffled(keys)) {
        if (half == 1) item.asked.push_back(static_cast<int32_t>(item.tokens.size()));
        item.tokens.push_back(10 + values + key);
        item.tokens.push_back(table[static_cast<size_t>(context * keys + key)]);
      }
    }
  }
  return item;
}

inline std::vector<TestItem> make_items(unsigned seed, int count, int contexts = 2, int keys = 2,
                                        int values = 4) {
  std::mt19937 random(seed);
  std::vector<TestItem> items;
  for (int i = 0; i < count; ++i) items.push_back(make_item(random, contexts, keys, values));
  return items;
}

// Inputs are all tokens but the last of an item.
inline PackedBatch pack(const std::vector<TestItem>& items) {
  PackedBatch batch;
  batch.cu_seqlens.push_back(0);
  batch.asked.offsets.push_back(0);
  for (const TestItem& item : items) {
    const auto first = static_cast<int32_t>(batch.inputs.size());
    batch.inputs.insert(batch.inputs.end(), item.tokens.begin(), item.tokens.end() - 1);
    batch.targets.insert(batch.targets.end(), item.tokens.begin() + 1, item.tokens.end());
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.inputs.size()));
    for (const int32_t position : item.asked) {
      batch.asked.positions.push_back(first + position);
      batch.asked.targets.push_back(item.tokens[static_cast<size_t>(position) + 1]);
    }
    batch.asked.offsets.push_back(static_cast<int32_t>(batch.asked.positions.size()));
  }
  return batch;
}

inline PaddedBatch pad(const std::vector<TestItem>& items, int length) {
  PaddedBatch batch;
  batch.length = length;
  batch.asked.offsets.push_back(0);
  for (const TestItem& item : items) {
    const size_t first = batch.inputs.size();
    batch.inputs.insert(batch.inputs.end(), item.tokens.begin(), item.tokens.end() - 1);
    batch.targets.insert(batch.targets.end(), item.tokens.begin() + 1, item.tokens.end());
    batch.attention_mask.resize(batch.inputs.size(), 1);
    batch.inputs.resize(first + static_cast<size_t>(length), 3);
    batch.targets.resize(batch.inputs.size(), 3);
    batch.attention_mask.resize(batch.inputs.size(), 0);
    for (const int32_t position : item.asked) {
      batch.asked.positions.push_back(static_cast<int32_t>(first) + position);
      batch.asked.targets.push_back(item.tokens[static_cast<size_t>(position) + 1]);
    }
    batch.asked.offsets.push_back(static_cast<int32_t>(batch.asked.positions.size()));
  }
  return batch;
}

// A model small enough for thousands of passes.
inline ModelConfig tiny_config(BaseArch base, const std::string& sparse = "none") {
  ModelConfig config = default_config(base, false);
  config.sparse_arch = parse_sparse_arch(sparse);
  config.hidden_size = 16;
  config.state_size = 8;
  config.time_step_rank = 4;
  config.num_heads = 4;
  config.head_dim = 8;
  config.vocab_size = 24;
  config.sparse_keys = 12;
  config.num_hash = 3;
  config.data_max_length = 40;
  if (base == BaseArch::kSamba) {
    config.attn.window_size = 7;
    config.initializer_range = 0.1;
  }
  return config;
}

struct BaseAndPattern {
  BaseArch base;
  std::string sparse;
};

inline std::vector<BaseAndPattern> all_models() {
  std::vector<BaseAndPattern> models;
  for (const BaseArch base : {BaseArch::kMamba, BaseArch::kMamba2}) {
    for (const std::string& sparse : sparse_arch_names()) models.push_back({base, sparse});
  }
  models.push_back({BaseArch::kSamba, "none"});
  return models;
}

inline std::string name_of(const BaseAndPattern& model) {
  std::string name = std::string(to_string(model.base)) + "_" + model.sparse;
  std::replace(name.begin(), name.end(), '+', '_');
  return name;
}

inline std::unique_ptr<Model> make_model(const ModelConfig& config, uint64_t seed = 1) {
  auto model = std::make_unique<Model>(config, make_test_backend(config.precision), seed);
  model->initialise();
  return model;
}

}  // namespace joint_recall
