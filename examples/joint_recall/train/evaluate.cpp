#include "train/evaluate.hpp"

#include <algorithm>

namespace joint_recall {
namespace {

// Of a packed batch: smaller ones don't fill a GPU where no backward follows.
constexpr int64_t kLeastItems = 256;

}  // namespace

BatchView BatchSource::view(int64_t number) {
  if (packing_) {
    batches_.fill(number, packed_);
    return view_of(packed_);
  }
  batches_.fill(number, padded_);
  return view_of(padded_);
}

ItemBatch BatchSource::items(const ResidentSplit& split, int64_t number) const {
  ItemBatch batch = {.source = &split, .index = {}, .packing = packing_};
  for (int64_t i = 0; i < batches_.batch_items(number); ++i) {
    batch.index.push_back(batches_.item_index(number, i));
  }
  return batch;
}

std::optional<Evaluation> evaluate(Model& model, const ResidentSplit& resident, int64_t bsz,
                                   bool packing, const EvaluationProgress& progress) {
  const Split& split = resident.split();
  const BatchSource source(split, packing ? std::max(bsz, kLeastItems) : bsz, Repeat::kOnce,
                           packing);
  Evaluation total;
  double loss_sum = 0.0;
  double accuracy_sum = 0.0;
  int64_t asked = 0;
  for (int64_t number = 0; number < source.batches().batches_per_pass(); ++number) {
    if (progress && !progress(total.items)) return std::nullopt;
    const ItemBatch batch = source.items(resident, number);
    const EvalResult result = model.evaluate(batch, static_cast<uint64_t>(number));
    loss_sum += result.loss * static_cast<double>(result.targets.size());
    asked += static_cast<int64_t>(result.targets.size());
    size_t j = 0;
    for (const int64_t index : batch.index) {
      const ItemShape shape = split.order().shape(index);
      int64_t right = 0;
      for (int ask = 0; ask < shape.asked_count(); ++ask, ++j) {
        right += result.predictions[j] == result.targets[j];
      }
      const double accuracy = static_cast<double>(right) / shape.asked_count();
      Evaluation::Table& table = total.by_table[{shape.n_context, shape.n_key}];
      ++table.items;
      table.accuracy_sum += accuracy;
      accuracy_sum += accuracy;
    }
    total.items += batch.items();
  }
  total.loss = loss_sum / static_cast<double>(asked);
  total.accuracy = accuracy_sum / static_cast<double>(total.items);
  return total;
}

std::vector<int> item_predictions(Model& model, const Split& split, int64_t index) {
  BatchSource source(split, 1, Repeat::kOnce, true);
  const EvalResult result = model.evaluate(source.view(index), 0);
  return {result.predictions.begin(), result.predictions.end()};
}

}  // namespace joint_recall
