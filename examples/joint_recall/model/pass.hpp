// One forward pass, and the backward pass that belongs to it: what every layer needs to know.
#pragma once

#include <cstdint>

#include "model/arena.hpp"
#include "model/backend.hpp"
#include "model/config.hpp"

namespace joint_recall {

// Where a pass has its random numbers from.
class RandomDraws {
 public:
  virtual ~RandomDraws() = default;
  // R of the layer, (state_size, num_hash).
  virtual void hash_projection(int64_t layer, Matrix R) = 0;
  // One number for each token; the largest ones pick the ranking loss's keys.
  virtual void ranking_noise(int64_t layer, int64_t tokens, float* noise) = 0;
};

// Work of a pass that may run beside its main line, most urgent first.
enum class Branch { kAttention, kScores, kWeights, kRanking };

struct Pass {
  Backend& backend;
  Arena& arena;
  RandomDraws& draws;
  Precision precision = Precision::kFp32;
  bool training = false;  // backward will follow: ranking loss wanted, activations kept
  // What libhax makes of gradients is added to those of an earlier micro-step.
  bool adds_gradients = false;
  // Branches run beside the main line, which costs memory: gradients of activations stay to the end.
  bool branches = false;

  int64_t batch = 0;   // rows; 1 when packed
  int64_t length = 0;  // tokens a row
  int64_t items = 0;
  int64_t sequences = 0;                    // items, and perhaps one more of padding behind them
  const int32_t* cu_seqlens = nullptr;      // on the device; null when padded
  int64_t max_seqlen = 0;                   // no packed sequence is longer; 0: unknown
  const uint8_t* attention_mask = nullptr;  // on the device; null where no token is padding
  const int32_t* position = nullptr;        // of each token in its sequence, on the device
  const float* dgate_loss = nullptr;        // gradient of each layer's ranking loss, one number

  int64_t tokens() const { return batch * length; }

  // Queues work on a branch, with memory of the branch's; see Backend::branch().
  template <class Work>
  void branch(Branch which, const Work& work) {
    if (!branches) return work();
    const Arena::OnBranch memory(arena, static_cast<int>(which));
    backend.branch(static_cast<int>(which), work);
  }
  void join(Branch which) {
    if (branches) backend.join(static_cast<int>(which));
  }
};

}  // namespace joint_recall
