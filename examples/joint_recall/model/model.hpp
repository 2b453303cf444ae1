// The whole model: embedding, layers, tied head, loss, gradients and the optimiser's state.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/backend.hpp"
#include "model/batch_view.hpp"
#include "model/config.hpp"
#include "model/item_batch.hpp"

namespace joint_recall {

// The arrays kept for each parameter.
enum class ParameterPart { kValue, kGradient, kFirstMoment, kSecondMoment };

struct Parameter {
  std::string name;  // "backbone.layers.0.mixer.in_proj.weight"
  std::vector<int64_t> shape;
  int64_t count = 0;
  int64_t offset = 0;     // in the flat storage
  bool trainable = true;  // false: a buffer (hash_projection), which has a value only
};

struct MicroStep {
  int64_t step = 1;   // number of the optimiser update this belongs to, from 1 on
  int32_t index = 0;  // micro-steps of one update count from 0; index 0 clears the gradients
  int32_t count = 1;  // --grad_acc: gradients are those of the mean over `count` micro-steps
  double gate_loss_weight = 0.1;
  // Of a batch that is one rank's part of a larger one: its share of the asked positions, and the tokens
  // of that batch before it.
  double loss_share = 1.0;
  int64_t first_token = 0;
};

// Adds up the ranks' gradients, in place: memory of the device, and how many numbers.
using GradientSum = std::function<void(float* gradient, int64_t count)>;

struct StepResult {
  double loss = 0.0;       // mean cross entropy over the batch's asked positions
  double gate_loss = 0.0;  // sum over layers of the ranking loss, unweighted
  double accuracy = 0.0;   // per item the share of asked positions predicted right, mean over items
  int64_t items = 0;       // items with at least one asked position: what accuracy averages over
};

struct EvalResult {
  double loss = 0.0;
  double accuracy = 0.0;
  int64_t items = 0;
  std::vector<int32_t> predictions;  // one for each of the batch's asked positions
  std::vector<int32_t> targets;      // what was to be predicted there
};

// What one layer attends for one item.
struct LayerAttention {
  int64_t layer = 0;
  int64_t num_heads = 1;
  int64_t length = 0;
  std::vector<uint32_t> patterns;  // (num_heads, length, length): HAX_PATTERN_* bits by which
                                   // query i (second axis) attends key j (third); 0: it doesn't
  std::vector<float> probability;  // the same shape: attention weights
};

class Model {
 public:
  // Throws ModelError for a configuration check_config rejects. All weights are 0 until
  // initialise() or set(). `seed` keys every random number drawn here.
  Model(const ModelConfig& config, std::shared_ptr<Backend> backend, uint64_t seed);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const;
  std::shared_ptr<Backend> backend() const;

  // Draws the recipe's initial weights and clears the optimiser's state.
  void initialise();

  // Parameters first, then buffers; the order is fixed by the configuration.
  const std::vector<Parameter>& parameters() const;
  const Parameter& parameter(const std::string& name) const;  // throws ModelError
  int64_t trainable_count() const;
  std::vector<float> get(const Parameter& parameter, ParameterPart part) const;
  // Throws ModelError when the number of values isn't parameter.count.
  void set(const Parameter& parameter, ParameterPart part, std::span<const float> values);

  // Called before every update from now on.
  void set_gradient_sum(GradientSum sum);

  // Queues one micro-step: loss and gradients, without touching the weights.
  void queue(const BatchView& batch, const MicroStep& micro_step);
  void queue(const ItemBatch& batch, const MicroStep& micro_step);
  // The same for a micro-step that is a whole step, with the update of apply() behind it.
  void queue_step(const BatchView& batch, const MicroStep& micro_step, double lr);
  void queue_step(const ItemBatch& batch, const MicroStep& micro_step, double lr);
  // Results of the micro-steps queued since the call before, in their order; waits for them.
  std::vector<StepResult> take_results();
  // Both, for one micro-step; no others may be waiting.
  StepResult forward_backward(const BatchView& batch, const MicroStep& micro_step);
  // One AdamW update with the gradients gathered since micro-step 0. step: from 1 on.
  void apply(int64_t step, double lr);
  // Both, for a batch that is a whole step.
  StepResult train_step(const BatchView& batch, int64_t step, double lr, double gate_loss_weight);

  // draw: keys the hash projection where it is redrawn, e.g. the number of the batch.
  EvalResult evaluate(const BatchView& batch, uint64_t draw);
  EvalResult evaluate(const ItemBatch& batch, uint64_t draw);

  // Attention of every attending layer for one item of at most 4096 tokens, without padding. Takes
  // O(length^2) memory, unlike everything else here.
  std::vector<LayerAttention> attention(const BatchView& item, uint64_t draw);

  // Bytes held for activations; grows only when a larger batch comes.
  size_t workspace_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace joint_recall
