// Batches named by their items, where the data set's tokens lie on the device already.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/batch.hpp"
#include "model/backend.hpp"

namespace joint_recall {

// A split's tokens on the device. The CPU's are the split's own memory.
class ResidentSplit {
 public:
  // Throws DatasetError where the split has a token outside its vocabulary.
  ResidentSplit(std::shared_ptr<Backend> backend, const Split& split);
  ~ResidentSplit();
  ResidentSplit(const ResidentSplit&) = delete;
  ResidentSplit& operator=(const ResidentSplit&) = delete;

  const Split& split() const { return split_; }
  const void* tokens() const { return tokens_; }

 private:
  std::shared_ptr<Backend> backend_;
  Split split_;
  const void* tokens_;
  void* copy_ = nullptr;
};

// The items `index` of a split, packed or padded as data/batch.hpp says.
struct ItemBatch {
  const ResidentSplit* source = nullptr;
  std::vector<int64_t> index;
  bool packing = true;

  bool packed() const { return packing; }
  int64_t items() const { return static_cast<int64_t>(index.size()); }
  int64_t asked() const;
};

// Throws a ModelError where the split's vocabulary is larger than the model's.
void check_batch(const ItemBatch& batch, int64_t vocab_size);

}  // namespace joint_recall
