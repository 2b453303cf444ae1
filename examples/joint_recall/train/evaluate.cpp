#include "train/evaluate.hpp"

namespace joint_recall {

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
  Evaluation total;
  double loss_sum = 0.0;
  double accuracy_sum = 0.0;
  int64_t asked = 0;
  for (int64_t number = 0; number < source.batches().batches_per_pass(); ++number) {
    if (progress && !progress(total.items)) return std::nullopt;
    const BatchView view = source.view(number);
    const EvalResult result = model.evaluate(view, static_cast<uint64_t>(number));
    const auto batch_asked = static_cast<int64_t>(view.asked_targets.size());
    loss_sum += result.loss * static_cast<double>(batch_asked);
    asked += batch_asked;
    for (int64_t i = 0; i < view.items(); ++i) {
      int64_t right = 0;
      const int32_t begin = view.asked_offsets[i];
      const int32_t end = view.asked_offsets[i + 1];
      for (int32_t j = begin; j < end; ++j) right += result.predictions[j] == view.asked_targets[j];
      const double accuracy = static_cast<double>(right) / (end - begin);
      const ItemShape shape = split.order().shape(source.batches().item_index(number, i));
      Evaluation::Table& table = total.by_table[{shape.n_context, shape.n_key}];
      ++table.items;
      table.accuracy_sum += accuracy;
      accuracy_sum += accuracy;
    }
    total.items += view.items();
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
