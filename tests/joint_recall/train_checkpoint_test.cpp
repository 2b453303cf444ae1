#include "train/checkpoint.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "dataset_fixture.hpp"
#include "train/device.hpp"
#include "train/error.hpp"

namespace joint_recall {
namespace {

class CheckpointTest : public DatasetTest {
 protected:
  CheckpointTest()
      : dataset_(create_dataset(folder_ / "data", fixed_size_args(2, 2, 4, 20, 5)).dataset) {
    TrainFlags flags;
    flags.given = {"sparse_arch"};
    flags.value.model.sparse_arch = parse_sparse_arch("key_selection");
    info_.settings = resolve_settings(flags, true);
    info_.dataset = identify(dataset_);
    info_.state = {.step = 30,
                   .validated_step = 20,
                   .best_step = 10,
                   .best_accuracy = 1.0 / 3.0,
                   .sums = {.steps = 2, .loss = 0.1, .gate_loss = 0.2, .accuracy = 0.7},
                   .jsonl_bytes = 11,
                   .csv_bytes = 12};
    model_ = make_model(7);
    // Moments that tell themselves apart.
    float next = 0.5f;
    for (const Parameter& parameter : model_->parameters()) {
      for (const auto part : {ParameterPart::kFirstMoment, ParameterPart::kSecondMoment}) {
        if (!parameter.trainable) continue;
        std::vector<float> values(static_cast<size_t>(parameter.count));
        for (float& value : values) value = next += 0.25f;
        model_->set(parameter, part, values);
      }
    }
    path_ = folder_ / "a.safetensors";
    save_checkpoint(path_, *model_, info_);
  }

  std::unique_ptr<Model> make_model(uint64_t seed) const {
    auto model = std::make_unique<Model>(
        info_.settings.model, make_backend("cpu", info_.settings.model.precision, 1), seed);
    model->initialise();
    return model;
  }

  std::string problem(Model& model) const {
    try {
      const Checkpoint checkpoint(path_);
      checkpoint.restore(model);
    } catch (const TrainError& error) {
      EXPECT_TRUE(contains(error.what(), path_.string()));
      return error.what();
    } catch (const ModelError& error) {
      EXPECT_TRUE(contains(error.what(), path_.string()));
      return error.what();
    }
    return "no error";
  }

  // The checkpoint with something changed.
  template <class Change>
  std::string problem_after(Change&& change) {
    SafetensorsFile file;
    read_safetensors(path_, file);
    std::vector<SafetensorsTensor> tensors;
    for (const auto& [name, tensor] : file.tensors) tensors.push_back(tensor);
    change(file.metadata, tensors);
    const std::string before = read_file(path_);
    write_file(path_, format_safetensors(file.metadata, tensors));
    const auto model = make_model(8);
    const std::string result = problem(*model);
    write_file(path_, before);
    return result;
  }

  Dataset dataset_;
  CheckpointInfo info_;
  std::unique_ptr<Model> model_;
  std::filesystem::path path_;
};

TEST_F(CheckpointTest, GivesBackAllOfIt) {
  const auto other = make_model(8);
  const Checkpoint checkpoint(path_);
  checkpoint.restore(*other);
  for (const Parameter& parameter : model_->parameters()) {
    for (const auto part :
         {ParameterPart::kValue, ParameterPart::kFirstMoment, ParameterPart::kSecondMoment}) {
      if (part != ParameterPart::kValue && !parameter.trainable) continue;
      EXPECT_EQ(model_->get(parameter, part), other->get(parameter, part)) << parameter.name;
    }
  }
  EXPECT_TRUE(checkpoint.info().dataset == info_.dataset);
  EXPECT_TRUE(checkpoint.info().settings.model == info_.settings.model);
  EXPECT_EQ(settings_to_json(checkpoint.info().settings), settings_to_json(info_.settings));
  const RunState& state = checkpoint.info().state;
  EXPECT_EQ(state.step, 30);
  EXPECT_EQ(state.validated_step, 20);
  EXPECT_EQ(state.best_step, 10);
  EXPECT_EQ(state.best_accuracy, 1.0 / 3.0);
  EXPECT_EQ(state.sums.steps, 2);
  EXPECT_EQ(state.sums.loss, 0.1);
  EXPECT_EQ(state.sums.gate_loss, 0.2);
  EXPECT_EQ(state.sums.accuracy, 0.7);
  EXPECT_EQ(state.jsonl_bytes, 11);
  EXPECT_EQ(state.csv_bytes, 12);
  save_checkpoint(folder_ / "b.safetensors", *other, checkpoint.info());
  EXPECT_TRUE(read_file(path_) == read_file(folder_ / "b.safetensors"));
}

TEST_F(CheckpointTest, NamesWhatIsWrong) {
  using Metadata = std::map<std::string, std::string>;
  using Tensors = std::vector<SafetensorsTensor>;
  EXPECT_EQ(problem_after([](Metadata&, Tensors&) {}), "no error");
  EXPECT_TRUE(contains(problem_after([](Metadata& m, Tensors&) { m.erase("format"); }),
                       "not a checkpoint of this trainer"));
  EXPECT_TRUE(
      contains(problem_after([](Metadata& m, Tensors&) { m["format"] = "pt"; }), "got 'pt'"));
  for (const char* key : {"config", "settings", "dataset", "state", "checksum"}) {
    EXPECT_TRUE(contains(problem_after([&](Metadata& m, Tensors&) { m.erase(key); }), key));
    EXPECT_TRUE(contains(problem_after([&](Metadata& m, Tensors&) { m[key] = "{"; }), key));
    EXPECT_TRUE(contains(problem_after([&](Metadata& m, Tensors&) { m[key] = "{}"; }), key));
  }
  EXPECT_TRUE(contains(problem_after([](Metadata& m, Tensors&) {
                         m["state"].replace(m["state"].find("30"), 2, "-3");
                       }),
                       "'step' is not a count"));
  EXPECT_TRUE(contains(problem_after([](Metadata& m, Tensors&) {
                         m["state"].replace(m["state"].find("30"), 2, "19");
                       }),
                       "steps contradict"));
  std::string name;
  const std::string missing = problem_after([&](Metadata&, Tensors& t) {
    name = t[3].name;
    t.erase(t.begin() + 3);
  });
  EXPECT_TRUE(contains(missing, "there is no tensor '" + name + "'"));
  EXPECT_TRUE(contains(problem_after([](Metadata&, Tensors& t) {
                         t.push_back({"foreign", "F32", {0}, {}});
                       }),
                       "tensor 'foreign' has no place"));
  EXPECT_TRUE(contains(problem_after([&](Metadata&, Tensors& t) { t[0].dtype = "I32"; }),
                       "expected F32 of shape ("));
  EXPECT_TRUE(
      contains(problem_after([&](Metadata&, Tensors& t) { t[0].shape.push_back(1); }), ", 1)"));
  std::string damaged;
  EXPECT_TRUE(contains(problem_after([&](Metadata&, Tensors& t) {
                         damaged = t[2].data;
                         damaged[0] = static_cast<char>(damaged[0] ^ 1);
                         t[2].data = damaged;
                       }),
                       "damaged"));
}

TEST_F(CheckpointTest, WhatDoesNotFitLeavesTheModelAsItWas) {
  const Parameter& parameter = model_->parameters().front();
  const std::vector<float> before = model_->get(parameter, ParameterPart::kValue);
  std::string bytes = read_file(path_);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  bytes[bytes.size() - model_->parameters().back().count * 4 - 9] ^= 1;
  write_file(path_, bytes);
  EXPECT_TRUE(contains(problem(*model_), "damaged"));
  EXPECT_EQ(model_->get(parameter, ParameterPart::kValue), before);
}

TEST_F(CheckpointTest, DataSetsAreToldApart) {
  EXPECT_TRUE(identify(dataset_) == identify(open_dataset(folder_ / "data")));
  GeneratorArgs args = fixed_size_args(2, 2, 4, 20, 5);
  args.seed = 2;
  const DatasetIdentity other = identify(create_dataset(folder_ / "other", args).dataset);
  EXPECT_FALSE(other == info_.dataset);
  EXPECT_EQ(difference(other, info_.dataset), "seed is 2, expected 1");
  DatasetIdentity changed = info_.dataset;
  changed.checksum ^= 1;
  EXPECT_EQ(difference(changed, info_.dataset), "the same arguments, but other tokens");
}

}  // namespace
}  // namespace joint_recall
