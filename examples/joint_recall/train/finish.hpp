// What a run leaves at its end: test accuracy of the best weights, and pictures.
#pragma once

#include "data/dataset.hpp"
#include "model/model.hpp"
#include "train/checkpoint.hpp"
#include "train/run_folder.hpp"

namespace joint_recall {

// The model holds the weights of info.state. False when a stop signal came before the end. The last
// line printed is the test accuracy.
bool finish_run(const RunFolder& folder, const Dataset& dataset, Model& model,
                const CheckpointInfo& info);

// Draws the training curves from the run's metrics.
void draw_curves(const RunFolder& folder, const Dataset& dataset, const CheckpointInfo& info);

}  // namespace joint_recall
