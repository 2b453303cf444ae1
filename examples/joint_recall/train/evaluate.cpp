#include "train/evaluate.hpp"

namespace joint_recall {
namespace {

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

void add_batch(Model& model, const Split& split, BatchSource& source, int64_t number, Sums& sums) {
  const BatchView view = source.view(number);
  const EvalResult result = model.evaluate(view, static_cast<uint64_t>(number));
  const auto asked = static_cast<double>(view.asked_targets.size());
  sums.loss += result.loss * asked;
  sums.asked += asked;
  for (int64_t i = 0; i < view.items(); ++i) {
    int64_t right = 0;
    const int32_t begin = view.asked_offsets[i];
    const int32_t end = view.asked_offsets[i + 1];
    for (int32_t j = begin; j < end; ++j) right += result.predictions[j] == view.asked_targets[j];
    const double accuracy = static_cast<double>(right) / (end - begin);
    const ItemShape shape = split.order().shape(source.batches().item_index(number, i));
    Evaluation::Table& table = sums.by_table[{shape.n_context, shape.n_key}];
    ++table.items;
    table.accuracy_sum += accuracy;
    sums.accuracy += accuracy;
  }
  sums.items += static_cast<double>(view.items());
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

std::optional<Evaluation> evaluate(Model& model, const Split& split, int64_t bsz, bool packing,
                                   const EvaluationProgress& progress) {
  BatchSource source(split, bsz, Repeat::kOnce, packing);
  Sums sums;
  for (int64_t number = 0; number < source.batches().batches_per_pass(); ++number) {
    if (progress && !progress(static_cast<int64_t>(sums.items))) return std::nullopt;
    add_batch(model, split, source, number, sums);
  }
  return sums.means();
}

Evaluation evaluate_together(Model& model, const Split& split, int64_t bsz, bool packing,
                             const Ranks& ranks) {
  BatchSource source(split, bsz, Repeat::kOnce, packing);
  Sums sums;
  for (int64_t number = ranks.rank(); number < source.batches().batches_per_pass();
       number += ranks.size()) {
    add_batch(model, split, source, number, sums);
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
