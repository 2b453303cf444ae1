// Which keys each query of one item attends, and how much.
#pragma once

#include "model/attend.hpp"
#include "model/model.hpp"

namespace joint_recall {

// Reads back what an attention call was given and answered. The pass holds one sequence.
LayerAttention attention_picture(Pass& pass, int64_t layer, const Attention& attention);

}  // namespace joint_recall
