#include "train/loaded_model.hpp"

#include <fmt/format.h>

#include "train/device.hpp"
#include "train/error.hpp"

namespace joint_recall {

LoadedModel::LoadedModel(const std::string& path, const Dataset& dataset,
                         const std::string& data_dir, const std::string& device, int num_threads) {
  const Checkpoint checkpoint(path);
  info = checkpoint.info();
  const Vocabulary expected = info.dataset.args.vocabulary();
  const Vocabulary found = dataset.vocabulary();
  if (!(found == expected)) {
    throw TrainError(
        fmt::format("--data_dir: tokens of {} mean other things than in {}: expected n_value {}, "
                    "max_n_key {}, max_n_context "
                    "{}, got {}, {}, {}",
                    data_dir, path, expected.n_value, expected.max_n_key, expected.max_n_context,
                    found.n_value, found.max_n_key, found.max_n_context));
  }
  model = std::make_unique<Model>(info.settings.model,
                                  make_backend(device, info.settings.model.precision, num_threads),
                                  info.settings.seed);
  checkpoint.restore(*model);
}

}  // namespace joint_recall
