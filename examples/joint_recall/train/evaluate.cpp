#include "train/evaluate.hpp"

#include <algorithm>

namespace joint_recall {
namespace {

// Of a packed batch: smaller ones don't fill a GPU where no backward follows.
constexpr int64_t kLeastItems = 256;

// Of the batches seen; counts are small enough to be exact.
struct Sums {
  double loss = 0.0;
  double asked = 0.0;
  double accuracy = 0.0;
  double items = 0.0;
  std::map<std::pair<int, int>, Evaluation::Table> by_table;

  Evaluation means() const {
    return {.items = static_cast<int64_t>(items),
            .loss = loss / asked,
            .accuracy = accuracy / items,
            .by_table = by_table};
  }
};

BatchSource evaluation_batches(const ResidentSplit& resident, int64_t bsz, bool packing) {
  return {resident.split(), packing ? std::max(bsz, kLeastItems) : bsz, Repeat::kOnce, packing};
}

void add_batch(Model& model, const ResidentSplit& resident, const BatchSource& source,
               int64_t number, Sums& sums) {
  const ItemBatch batch = source.items(resident, number);
  const EvalResult result = model.evaluate(batch, static_cast<uint64_t>(number));
  const auto asked = static_cast<double>(result.targets.size());
  sums.loss += result.loss * asked;
  sums.asked += asked;
  size_t j = 0;
  for (const int64_t index : batch.index) {
    const ItemShape shape = resident.split().order().shape(index);
    int64_t right = 0;
    for (int ask = 0; ask < shape.asked_count(); ++ask, ++j) {
      right += result.predictions[j] == result.targets[j];
    }
    const double accuracy = static_cast<double>(right) / shape.asked_count();
    Evaluation::Table& table = sums.by_table[{shape.n_context, shape.n_key}];
    ++table.items;
    table.accuracy_sum += accuracy;
    sums.accuracy += accuracy;
  }
  sums.items += static_cast<double>(batch.items());
}

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
  const BatchSource source = evaluation_batches(resident, bsz, packing);
  Sums sums;
  for (int64_t number = 0; number < source.batches().batches_per_pass(); ++number) {
    if (progress && !progress(static_cast<int64_t>(sums.items))) return std::nullopt;
    add_batch(model, resident, source, number, sums);
  }
  return sums.means();
}

Evaluation evaluate_together(Model& model, const ResidentSplit& resident, int64_t bsz, bool packing,
                             const Ranks& ranks) {
  const BatchSource source = evaluation_batches(resident, bsz, packing);
  Sums sums;
  for (int64_t number = ranks.rank(); number < source.batches().batches_per_pass();
       number += ranks.size()) {
    add_batch(model, resident, source, number, sums);
  }
  double numbers[] = {sums.loss, sums.asked, sums.accuracy, sums.items};
  ranks.sum(std::span<double>(numbers));
  return Sums{numbers[0], numbers[1], numbers[2], numbers[3], {}}.means();
}

std::vector<int> item_predictions(Model& model, const Split& split, int64_t index) {
  BatchSource source(split, 1, Repeat::kOnce, true);
  const EvalResult result = model.evaluate(source.view(index), 0);
  return {result.predictions.begin(), result.predictions.end()};
}

}  // namespace joint_recall
