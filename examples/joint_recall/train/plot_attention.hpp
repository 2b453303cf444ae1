// The picture of what each layer attends for one item.
#pragma once

#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "model/model.hpp"

namespace joint_recall {

// One row of two panels a layer: which pattern chose each key, and with what weight it is attended.
// Of several heads the panels show the union and the mean. `layers` are of `item` without its last
// token.
std::string attention_svg(const std::vector<LayerAttention>& layers, const Item& item,
                          const Vocabulary& vocabulary, const std::string& title);

// Attention of the model for one item; empty where no layer attends.
std::vector<LayerAttention> item_attention(Model& model, const Split& split, int64_t index);

}  // namespace joint_recall
