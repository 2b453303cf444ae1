// A model from a checkpoint together with a data set it can be used on.
#pragma once

#include <memory>
#include <string>

#include "data/dataset.hpp"
#include "model/model.hpp"
#include "train/checkpoint.hpp"

namespace joint_recall {

struct LoadedModel {
  // The data set must give tokens the meaning they had in training; it may be another one otherwise.
  LoadedModel(const std::string& checkpoint, const Dataset& dataset, const std::string& data_dir,
              const std::string& device, int num_threads);

  CheckpointInfo info;
  std::unique_ptr<Model> model;
};

}  // namespace joint_recall
