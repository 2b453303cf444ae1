// A batch brought to the device, at the start of a pass's arena.
#pragma once

#include "model/batch_view.hpp"
#include "model/head.hpp"
#include "model/pass.hpp"

namespace joint_recall {

struct BatchOnDevice {
  const int32_t* inputs = nullptr;
  AskedTokensOnDevice asked;
};

// Fills in what the pass knows of the batch. lengthen: whether a packed batch gets one of a few lengths by
// a sequence of padding behind its items, which asks nothing.
// loss_scale: see AskedTokensOnDevice; 0 where no backward follows. positions: whether the model needs
// the tokens' positions.
BatchOnDevice upload_batch(const BatchView& batch, bool lengthen, bool positions, float loss_scale,
                           Pass& pass);

}  // namespace joint_recall
