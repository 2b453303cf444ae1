// A batch brought to the device, at the start of a pass's arena.
#pragma once

#include "model/batch_view.hpp"
#include "model/head.hpp"
#include "model/item_batch.hpp"
#include "model/pass.hpp"

namespace joint_recall {

// What changes from one pass to the next though shapes be equal.
struct PassNumbers {
  RandomStep random;
  float loss_scale = 0.0f;  // of the sum of losses; 0 where no backward follows
  float dgate_loss = 0.0f;
  AdamwNumbers adamw = {};
  int64_t asked = 0;  // tokens, where the batch is named by its items
};

struct BatchOnDevice {
  const PassNumbers* numbers = nullptr;
  const int32_t* inputs = nullptr;
  AskedTokensOnDevice asked;
  ItemTokens tokens;  // what assemble() makes the batch of; no items where the host made it
  BatchArrays arrays;
};

// Fills in what the pass knows of the batch. lengthen: whether a packed batch gets one of a few lengths by
// a sequence of padding behind its items, which asks nothing. positions: whether the model needs the
// tokens' positions.
BatchOnDevice upload_batch(const BatchView& batch, const PassNumbers& numbers, bool lengthen,
                           bool positions, Pass& pass);
// Brings only what names the items; the backend's assemble() has to follow.
BatchOnDevice upload_batch(const ItemBatch& batch, const PassNumbers& numbers, bool lengthen,
                           bool positions, Pass& pass);

}  // namespace joint_recall
