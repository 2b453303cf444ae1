// Batches named by their items are the batches that the host makes of them.
#include <gtest/gtest.h>

#include "data/dataset_error.hpp"
#include "data/generator.hpp"
#include "model/error.hpp"
#include "model_items_fixture.hpp"
#include "train/evaluate.hpp"

namespace joint_recall {
namespace {

// A split in memory.
Split make_split(const GeneratorArgs& args, std::vector<std::byte>& tokens) {
  std::array<SplitOutput, 3> outputs;
  std::array<std::vector<std::byte>, 3> memory;
  for (size_t i = 0; i < memory.size(); ++i) {
    const ItemOrder order = args.order();
    memory[i].resize(static_cast<size_t>(order.first_token(args.items(kSplitNames[i]))) *
                     static_cast<size_t>(args.vocabulary().token_bytes()));
    outputs[i].tokens = memory[i];
  }
  generate(args, outputs);
  tokens = std::move(memory.front());
  return {"test", args.vocabulary(), args.order(), args.items(SplitName::kTrain), tokens, nullptr};
}

GeneratorArgs small_args() {
  GeneratorArgs args;
  args.max_n_context = args.max_n_key = 4;
  args.min_n_context = args.min_n_key = 2;
  args.n_value = 6;
  args.n_train_per_context_key = 3;
  args.n_test_per_context_key = 1;
  return args;
}

// Of two bytes a token: 300 values.
GeneratorArgs wide_args() {
  GeneratorArgs args = small_args();
  args.n_value = 300;
  return args;
}

TEST(ItemBatches, StepsAreThoseOfTheSameBatchFromTheHost) {
  for (const GeneratorArgs& args : {small_args(), wide_args()}) {
    std::vector<std::byte> tokens;
    const Split split = make_split(args, tokens);
    for (const BaseArch base : {BaseArch::kMamba2, BaseArch::kSamba}) {
      for (const bool packing : {true, false}) {
        SCOPED_TRACE(testing::Message() << to_string(base) << (packing ? " packed" : " padded")
                                        << ", " << args.n_value << " values");
        ModelConfig config =
            tiny_config(base, base == BaseArch::kSamba ? "none" : "sign_bin_lsh+key_selection");
        config.vocab_size = args.vocabulary().size();
        const auto by_view = make_model(config), by_items = make_model(config);
        const ResidentSplit resident(by_items->backend(), split);
        BatchSource source(split, 5, Repeat::kForever, packing);
        // On a GPU, equal shapes are recorded at the second step and replayed later.
        for (int step = 1; step <= 14; ++step) {
          const MicroStep micro_step = {.step = step};
          by_view->queue_step(source.view(step - 1), micro_step, 0.01);
          by_items->queue_step(source.items(resident, step - 1), micro_step, 0.01);
          const StepResult want = by_view->take_results().back(),
                           got = by_items->take_results().back();
          EXPECT_EQ(got.loss, want.loss) << step;
          EXPECT_EQ(got.gate_loss, want.gate_loss) << step;
          EXPECT_EQ(got.accuracy, want.accuracy) << step;
        }
        const EvalResult want = by_view->evaluate(source.view(2), 7),
                         got = by_items->evaluate(source.items(resident, 2), 7);
        EXPECT_EQ(got.loss, want.loss);
        EXPECT_EQ(got.predictions, want.predictions);
        EXPECT_EQ(got.targets, want.targets);
      }
    }
  }
}

TEST(ItemBatches, RejectTokensOutsideTheVocabulary) {
  std::vector<std::byte> tokens;
  const Split split = make_split(small_args(), tokens);
  const std::shared_ptr<Backend> backend = make_test_backend();
  tokens[17] = std::byte{200};
  EXPECT_THROW(ResidentSplit(backend, split), DatasetError);
  tokens[17] = std::byte{1};
  const auto model = make_model(tiny_config(BaseArch::kMamba));
  const ResidentSplit resident(model->backend(), split);
  ModelConfig narrow = tiny_config(BaseArch::kMamba);
  narrow.vocab_size = 12;
  EXPECT_THROW(make_model(narrow)->evaluate(ItemBatch{&resident, {0}, true}, 0), ModelError);
}

}  // namespace
}  // namespace joint_recall
