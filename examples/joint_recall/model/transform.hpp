// What stands between a norm and the residual stream: a mixer or an MLP.
#pragma once

#include <memory>
#include <string>

#include "model/attend.hpp"
#include "model/parameters.hpp"
#include "model/pass.hpp"

namespace joint_recall {

// A norm over the residual stream, with the stream in front of it.
struct NormedStream {
  Weight weight;
  float epsilon = 0.0f;
  Matrix hidden;

  RowNorm norm() const { return {weight.value, epsilon, weight.gradient}; }
};

// Constructors declare the parameters, bind() takes hold of them once they exist. Between forward and
// backward of one pass, what was computed stays in the pass's arena.
class Transform {
 public:
  virtual ~Transform() = default;

  virtual void bind(const ParameterStore& store) = 0;
  // Queues what doesn't depend on activations, before all forwards: random numbers, say.
  virtual void prepare(Pass&) {}
  // out = hidden + f(rmsnorm(hidden)). The stream has to stay until backward.
  virtual void forward(Pass& pass, const NormedStream& in, Tokens out) = 0;
  // d_hidden = the gradient of the stream in front, and the parameters' gradients, the norm's among them, grow by
  // theirs (and by the ranking loss's).
  virtual void backward(Pass& pass, const NormedStream& in, ConstTokens d_out, Tokens d_hidden) = 0;

  // After a training forward: the ranking loss on the device, null for a layer without.
  virtual const float* ranking_loss() const { return nullptr; }
  // After forward: what was attended, null for a layer without attention.
  virtual const Attention* attention() const { return nullptr; }
};

// prefix: "backbone.layers.0.mixer". layer: number of the layer, from 0 on.
std::unique_ptr<Transform> make_mamba_mixer(const ModelConfig& config, int64_t layer,
                                            const std::string& prefix, ParameterStore& store);
std::unique_ptr<Transform> make_mamba2_mixer(const ModelConfig& config, int64_t layer,
                                             const std::string& prefix, ParameterStore& store);
std::unique_ptr<Transform> make_attention_mixer(const ModelConfig& config,
                                                const std::string& prefix, ParameterStore& store);
// The layer's mixer by the configuration.
std::unique_ptr<Transform> make_mixer(const ModelConfig& config, int64_t layer,
                                      const std::string& prefix, ParameterStore& store);
// Samba's SwiGLU MLP.
std::unique_ptr<Transform> make_mlp(const ModelConfig& config, const std::string& prefix,
                                    ParameterStore& store);

}  // namespace joint_recall
