// Accuracy of a model on a split.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "data/batch.hpp"
#include "model/model.hpp"
#include "ranks/ranks.hpp"

namespace joint_recall {

// Batches of a split by number, packed or padded.
class BatchSource {
 public:
  BatchSource(const Split& split, int64_t bsz, Repeat repeat, bool packing, BatchPart part = {})
      : batches_(split, bsz, repeat, part), packing_(packing) {}

  const BatchIterator& batches() const { return batches_; }
  BatchView view(int64_t number);  // valid until the next call
  // The same batch by its items.
  ItemBatch items(const ResidentSplit& split, int64_t number) const;

 private:
  BatchIterator batches_;
  bool packing_;
  PackedBatch packed_;
  PaddedBatch padded_;
};

struct Evaluation {
  struct Table {
    int64_t items = 0;
    double accuracy_sum = 0.0;
    double accuracy() const { return accuracy_sum / static_cast<double>(items); }
  };

  int64_t items = 0;
  double loss = 0.0;      // mean over all asked positions
  double accuracy = 0.0;  // per item the share predicted right, mean over items
  std::map<std::pair<int, int>, Table> by_table;  // keyed by contexts and keys
};

// Called before each batch with the items done; false stops, and evaluate() then returns nothing.
using EvaluationProgress = std::function<bool(int64_t items_done)>;

std::optional<Evaluation> evaluate(Model& model, const ResidentSplit& split, int64_t bsz,
                                   bool packing, const EvaluationProgress& progress = {});

// The same by all ranks together, who share out the batches; by_table is left out.
Evaluation evaluate_together(Model& model, const ResidentSplit& split, int64_t bsz, bool packing,
                             const Ranks& ranks);

// The token predicted at each asked position of one item.
std::vector<int> item_predictions(Model& model, const Split& split, int64_t index);

}  // namespace joint_recall
