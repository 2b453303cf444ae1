#include "model/model.hpp"

#include <fmt/format.h>

#include <optional>

#include "model/attention_picture.hpp"
#include "model/head.hpp"
#include "model/initial_weights.hpp"
#include "model/layers.hpp"
#include "model/parameters.hpp"

namespace joint_recall {
namespace {

// Random numbers keyed by what they are for, so that they don't depend on what was drawn before.
class KeyedDraws : public RandomDraws {
 public:
  KeyedDraws(Backend& backend, uint64_t seed, RandomPurpose hash_purpose, uint64_t step,
             uint32_t part)
      : backend_(backend), seed_(seed), hash_purpose_(hash_purpose), step_(step), part_(part) {}

  void hash_projection(int64_t layer, Matrix R) override {
    backend_.random_normal(key(hash_purpose_, layer), R.rows * R.columns, R.data);
  }
  void ranking_noise(int64_t layer, int64_t tokens, float* noise) override {
    backend_.random_uniform(key(RandomPurpose::kRankingNoise, layer), tokens, noise);
  }

 private:
  RandomKey key(RandomPurpose purpose, int64_t layer) const {
    return {seed_, purpose, static_cast<uint32_t>(layer), step_, part_};
  }

  Backend& backend_;
  uint64_t seed_;
  RandomPurpose hash_purpose_;
  uint64_t step_;
  uint32_t part_;
};

double mean(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float value : values) sum += double{value};
  return values.empty() ? 0.0 : sum / static_cast<double>(values.size());
}

struct Accuracy {
  double mean = 0.0;
  int64_t items = 0;
};

Accuracy accuracy(const BatchView& batch, const std::vector<int32_t>& predictions) {
  Accuracy result;
  for (int64_t item = 0; item < batch.items(); ++item) {
    const auto begin = static_cast<size_t>(batch.asked_offsets[static_cast<size_t>(item)]);
    const auto end = static_cast<size_t>(batch.asked_offsets[static_cast<size_t>(item) + 1]);
    if (begin == end) continue;
    size_t right = 0;
    for (size_t j = begin; j < end; ++j) right += predictions[j] == batch.asked_targets[j];
    result.mean += static_cast<double>(right) / static_cast<double>(end - begin);
    ++result.items;
  }
  if (result.items > 0) result.mean /= static_cast<double>(result.items);
  return result;
}

std::vector<int32_t> token_positions(const BatchView& batch) {
  std::vector<int32_t> positions(static_cast<size_t>(batch.tokens()));
  size_t sequence = 0;
  for (size_t t = 0; t < positions.size(); ++t) {
    if (batch.packed()) {
      while (static_cast<size_t>(batch.cu_seqlens[sequence + 1]) <= t) ++sequence;
      positions[t] = static_cast<int32_t>(t) - batch.cu_seqlens[sequence];
    } else {
      positions[t] = static_cast<int32_t>(t % static_cast<size_t>(batch.length));
    }
  }
  return positions;
}

}  // namespace

struct Model::Impl {
  Impl(const ModelConfig& model_config, std::shared_ptr<Backend> model_backend, uint64_t model_seed)
      : config(model_config),
        backend(std::move(model_backend)),
        seed(model_seed),
        store(*backend),
        arena(*backend),
        steps(declare_all()) {
    store.allocate();
    embedding = store.weight("backbone.embeddings.weight");
    head->bind(store, embedding);
    for (ResidualStep& step : steps) step.bind(store);
  }

  std::vector<ResidualStep> declare_all() {
    store.declare("backbone.embeddings.weight", {config.vocab_size, config.hidden_size});
    std::vector<ResidualStep> made = make_residual_steps(config, store);
    head.emplace(config, store);
    return made;
  }

  template <class T>
  const T* upload(std::span<const T> values) {
    auto* memory = arena.take<T>(static_cast<int64_t>(values.size()));
    backend->copy_in(memory, values.data(), values.size_bytes());
    return memory;
  }

  template <class T>
  std::vector<T> download(const T* source, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    backend->copy_out(values.data(), source, values.size() * sizeof(T));
    return values;
  }

  // Empties the arena, brings the batch to the device and describes it.
  Pass begin(const BatchView& batch, RandomDraws& draws, bool training) {
    check_batch(batch, config.vocab_size);
    arena.reset();
    Pass pass{*backend, arena, draws};
    pass.precision = config.precision;
    pass.training = training;
    pass.batch = batch.batch;
    pass.length = batch.length;
    pass.sequences = batch.items();
    inputs = upload(batch.inputs);
    if (batch.packed()) pass.cu_seqlens = upload(batch.cu_seqlens);
    if (!batch.attention_mask.empty()) pass.attention_mask = upload(batch.attention_mask);
    if (config.base_arch == BaseArch::kSamba) {
      const std::vector<int32_t> positions = token_positions(batch);
      pass.position = upload(std::span<const int32_t>(positions));
    }
    asked = {static_cast<int64_t>(batch.asked_positions.size()), upload(batch.asked_positions),
             upload(batch.asked_targets)};
    return pass;
  }

  Matrix forward(Pass& pass) {
    Matrix hidden = arena.matrix(pass.tokens(), config.hidden_size);
    backend->gather_rows(embedding.matrix(), inputs, hidden);
    for (ResidualStep& step : steps) hidden = step.forward(pass, hidden);
    return hidden;
  }

  void backward(Pass& pass) {
    const Matrix d_hidden = arena.matrix(pass.tokens(), config.hidden_size);
    head->backward(pass, asked, d_hidden);
    for (size_t s = steps.size(); s-- > 0;) steps[s].backward(pass, d_hidden);
    backend->scatter_add_rows(d_hidden, inputs, embedding.gradient_matrix());
  }

  double gate_loss() {
    double sum = 0.0;
    for (const ResidualStep& step : steps) {
      const float* loss = step.transform().ranking_loss();
      if (loss != nullptr) sum += double{download(loss, 1).front()};
    }
    return sum;
  }

  ModelConfig config;
  std::shared_ptr<Backend> backend;
  uint64_t seed;
  ParameterStore store;
  Arena arena;
  std::optional<Head> head;
  std::vector<ResidualStep> steps;
  Weight embedding;

  const int32_t* inputs = nullptr;
  AskedTokensOnDevice asked;
};

namespace {

const ModelConfig& checked(const ModelConfig& config) {
  check_config(config);
  return config;
}

}  // namespace

Model::Model(const ModelConfig& config, std::shared_ptr<Backend> backend, uint64_t seed)
    : impl_(std::make_unique<Impl>(checked(config), std::move(backend), seed)) {}

Model::~Model() = default;

const ModelConfig& Model::config() const { return impl_->config; }

void Model::initialise() {
  uint64_t index = 0;
  for (const Parameter& parameter : parameters()) {
    set(parameter, ParameterPart::kValue,
        initial_values(impl_->config, parameter, index++, impl_->seed));
  }
  for (const auto part :
       {ParameterPart::kGradient, ParameterPart::kFirstMoment, ParameterPart::kSecondMoment}) {
    impl_->store.clear(part);
  }
}

const std::vector<Parameter>& Model::parameters() const { return impl_->store.parameters(); }

const Parameter& Model::parameter(const std::string& name) const {
  return impl_->store.parameter(name);
}

int64_t Model::trainable_count() const { return impl_->store.trainable_count(); }

std::vector<float> Model::get(const Parameter& parameter, ParameterPart part) const {
  std::vector<float> values(static_cast<size_t>(parameter.count));
  impl_->store.get(parameter, part, values);
  return values;
}

void Model::set(const Parameter& parameter, ParameterPart part, std::span<const float> values) {
  impl_->store.set(parameter, part, values);
}

StepResult Model::forward_backward(const BatchView& batch, const MicroStep& micro_step) {
  if (micro_step.count < 1 || micro_step.count > 65536 || micro_step.index < 0 ||
      micro_step.index >= micro_step.count) {
    throw ModelError(fmt::format("micro_step: expected index below count <= 65536, got {} of {}",
                                 micro_step.index, micro_step.count));
  }
  KeyedDraws draws(*impl_->backend, impl_->seed, RandomPurpose::kHashProjection,
                   static_cast<uint64_t>(micro_step.step), static_cast<uint32_t>(micro_step.index));
  Pass pass = impl_->begin(batch, draws, true);
  const auto dgate_loss = static_cast<float>(micro_step.gate_loss_weight / micro_step.count);
  pass.dgate_loss = impl_->upload(std::span<const float>(&dgate_loss, 1));
  if (micro_step.index == 0) impl_->store.clear(ParameterPart::kGradient);

  const AskedTokensOnDevice& asked = impl_->asked;
  const Matrix hidden = impl_->forward(pass);
  const double scale =
      asked.count == 0 ? 0.0 : 1.0 / static_cast<double>(asked.count * micro_step.count);
  impl_->head->forward(pass, hidden, asked, static_cast<float>(scale));
  impl_->backward(pass);

  const Accuracy right = accuracy(batch, impl_->download(impl_->head->prediction(), asked.count));
  return {mean(impl_->download(impl_->head->loss(), asked.count)), impl_->gate_loss(), right.mean,
          right.items};
}

void Model::apply(int64_t step, double lr) {
  AdamwArgs args;
  args.step = step;
  args.lr = lr;
  const ParameterStore& store = impl_->store;
  impl_->backend->adamw(args, store.flat_count(), store.part(ParameterPart::kGradient),
                        store.part(ParameterPart::kValue), store.part(ParameterPart::kFirstMoment),
                        store.part(ParameterPart::kSecondMoment));
}

StepResult Model::train_step(const BatchView& batch, int64_t step, double lr,
                             double gate_loss_weight) {
  const StepResult result = forward_backward(batch, {step, 0, 1, gate_loss_weight});
  apply(step, lr);
  return result;
}

EvalResult Model::evaluate(const BatchView& batch, uint64_t draw) {
  KeyedDraws draws(*impl_->backend, impl_->seed, RandomPurpose::kEvaluationHashProjection, draw, 0);
  Pass pass = impl_->begin(batch, draws, false);
  const Matrix hidden = impl_->forward(pass);
  const AskedTokensOnDevice& asked = impl_->asked;
  impl_->head->forward(pass, hidden, asked, 0.0f);
  EvalResult result;
  result.predictions = impl_->download(impl_->head->prediction(), asked.count);
  result.loss = mean(impl_->download(impl_->head->loss(), asked.count));
  const Accuracy right = accuracy(batch, result.predictions);
  result.accuracy = right.mean;
  result.items = right.items;
  return result;
}

std::vector<LayerAttention> Model::attention(const BatchView& item, uint64_t draw) {
  constexpr int64_t kMostTokens = 4096;
  if (item.items() != 1 || item.tokens() > kMostTokens) {
    throw ModelError(fmt::format("item: expected one item of at most {} tokens, got {} of {}",
                                 kMostTokens, item.items(), item.tokens()));
  }
  KeyedDraws draws(*impl_->backend, impl_->seed, RandomPurpose::kEvaluationHashProjection, draw, 0);
  Pass pass = impl_->begin(item, draws, false);
  impl_->forward(pass);
  std::vector<LayerAttention> pictures;
  for (const ResidualStep& step : impl_->steps) {
    const Attention* attention = step.transform().attention();
    if (attention != nullptr) {
      pictures.push_back(attention_picture(pass, step.layer(), *attention));
    }
  }
  return pictures;
}

size_t Model::workspace_bytes() const { return impl_->arena.bytes(); }

}  // namespace joint_recall
