#include "model/model.hpp"

#include <fmt/format.h>

#include <optional>

#include "model/attention_picture.hpp"
#include "model/batch_on_device.hpp"
#include "model/head.hpp"
#include "model/initial_weights.hpp"
#include "model/layers.hpp"
#include "model/parameters.hpp"
#include "model/step_results.hpp"

namespace joint_recall {
namespace {

// Random numbers keyed by what they are for, so that they don't depend on what was drawn before.
class KeyedDraws : public RandomDraws {
 public:
  KeyedDraws(Backend& backend, uint64_t seed, RandomPurpose hash_purpose, uint64_t step,
             uint32_t part, int64_t first_token = 0)
      : backend_(backend),
        seed_(seed),
        hash_purpose_(hash_purpose),
        step_(step),
        part_(part),
        first_token_(first_token) {}

  void hash_projection(int64_t layer, Matrix R) override {
    backend_.random_normal(key(hash_purpose_, layer), R.rows * R.columns, R.data);
  }
  void ranking_noise(int64_t layer, int64_t tokens, float* noise) override {
    RandomKey from = key(RandomPurpose::kRankingNoise, layer);
    from.first = static_cast<uint64_t>(first_token_);
    backend_.random_uniform(from, tokens, noise);
  }

 private:
  RandomKey key(RandomPurpose purpose, int64_t layer) const {
    return {seed_, purpose, static_cast<uint32_t>(layer), step_, part_, 0};
  }

  Backend& backend_;
  uint64_t seed_;
  RandomPurpose hash_purpose_;
  uint64_t step_;
  uint32_t part_;
  int64_t first_token_;
};

// First entries of work keys.
constexpr int64_t kFirstMicroStep = 0, kLaterMicroStep = 1, kEvaluation = 2;

}  // namespace

struct Model::Impl {
  Impl(const ModelConfig& model_config, std::shared_ptr<Backend> model_backend, uint64_t model_seed)
      : config(model_config),
        backend(std::move(model_backend)),
        seed(model_seed),
        store(*backend),
        arena(*backend),
        steps(declare_all()),
        results(*backend, static_cast<int64_t>(steps.size())) {
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

  // Empties the arena, brings the batch to the device and draws the pass's random numbers.
  Pass begin(const BatchView& view, RandomDraws& draws, bool training, bool lengthen,
             float loss_scale) {
    check_batch(view, config.vocab_size);
    arena.reset();
    Pass pass{*backend, arena, draws};
    pass.precision = config.precision;
    pass.training = training;
    batch = upload_batch(view, lengthen, config.base_arch == BaseArch::kSamba, loss_scale, pass);
    for (ResidualStep& step : steps) step.draw(pass);
    return pass;
  }

  // kind: what is done with the batch.
  WorkKey work_key(const Pass& pass, int64_t kind) const {
    return {kind,           pass.batch,        pass.length,
            pass.sequences, batch.asked.count, pass.attention_mask != nullptr ? 1 : 0};
  }

  Matrix forward(Pass& pass) {
    Matrix hidden = arena.matrix(pass.tokens(), config.hidden_size);
    backend->gather_rows(embedding.matrix(), batch.inputs, hidden);
    for (ResidualStep& step : steps) hidden = step.forward(pass, hidden);
    return hidden;
  }

  // Leaves the batch's numbers in `results`.
  void score(const Pass& pass) {
    const AskedTokensOnDevice& asked = batch.asked;
    backend->score_batch(asked.loss, asked.prediction, asked.targets, asked.offsets, pass.items,
                         results.latest());
    size_t gate = 0;
    for (const ResidualStep& step : steps) {
      const float* loss = step.transform().ranking_loss();
      if (loss != nullptr) backend->copy_within(results.gate_loss(gate++), loss, sizeof(float));
    }
  }

  void backward(Pass& pass) {
    const Matrix d_hidden = arena.matrix(pass.tokens(), config.hidden_size);
    head->backward(pass, batch.asked, d_hidden);
    for (size_t s = steps.size(); s-- > 0;) steps[s].backward(pass, d_hidden);
    backend->scatter_add_rows(d_hidden, batch.inputs, embedding.gradient_matrix());
  }

  ModelConfig config;
  std::shared_ptr<Backend> backend;
  uint64_t seed;
  ParameterStore store;
  Arena arena;
  std::optional<Head> head;
  std::vector<ResidualStep> steps;
  Weight embedding;
  StepResults results;
  GradientSum sum_gradients;
  BatchOnDevice batch;  // of the present pass
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

void Model::set_gradient_sum(GradientSum sum) { impl_->sum_gradients = std::move(sum); }

void Model::queue(const BatchView& batch, const MicroStep& micro_step) {
  if (micro_step.count < 1 || micro_step.count > 65536 || micro_step.index < 0 ||
      micro_step.index >= micro_step.count) {
    throw ModelError(fmt::format("micro_step: expected index below count <= 65536, got {} of {}",
                                 micro_step.index, micro_step.count));
  }
  Impl& m = *impl_;
  KeyedDraws draws(*m.backend, m.seed, RandomPurpose::kHashProjection,
                   static_cast<uint64_t>(micro_step.step), static_cast<uint32_t>(micro_step.index),
                   micro_step.first_token);
  const auto asked = static_cast<double>(batch.asked_positions.size());
  const double scale = asked == 0.0 ? 0.0 : micro_step.loss_share / (asked * micro_step.count);
  Pass pass = m.begin(batch, draws, true, m.backend->records(), static_cast<float>(scale));
  const auto dgate_loss = static_cast<float>(micro_step.gate_loss_weight / micro_step.count);
  pass.dgate_loss = m.upload(std::span<const float>(&dgate_loss, 1));
  const bool first = micro_step.index == 0;
  m.backend->run(m.work_key(pass, first ? kFirstMicroStep : kLaterMicroStep), [&] {
    if (first) m.store.clear(ParameterPart::kGradient);
    const Matrix hidden = m.forward(pass);
    m.head->forward(pass, hidden, m.batch.asked);
    m.backward(pass);
    m.score(pass);
  });
  m.results.keep();
}

std::vector<StepResult> Model::take_results() { return impl_->results.take(); }

StepResult Model::forward_backward(const BatchView& batch, const MicroStep& micro_step) {
  queue(batch, micro_step);
  return take_results().back();
}

void Model::apply(int64_t step, double lr) {
  AdamwArgs args;
  args.step = step;
  args.lr = lr;
  const ParameterStore& store = impl_->store;
  if (impl_->sum_gradients) {
    impl_->sum_gradients(store.part(ParameterPart::kGradient), store.flat_count());
  }
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
  Impl& m = *impl_;
  KeyedDraws draws(*m.backend, m.seed, RandomPurpose::kEvaluationHashProjection, draw, 0);
  Pass pass = m.begin(batch, draws, false, m.backend->records(), 0.0f);
  m.backend->run(m.work_key(pass, kEvaluation), [&] {
    const Matrix hidden = m.forward(pass);
    m.head->forward(pass, hidden, m.batch.asked);
    m.score(pass);
  });
  EvalResult result;
  result.predictions =
      m.download(m.batch.asked.prediction, static_cast<int64_t>(batch.asked_positions.size()));
  BatchScores scores;
  m.backend->copy_out(&scores, m.results.latest(), sizeof scores);
  result.loss = scores.loss;
  result.accuracy = scores.accuracy;
  result.items = scores.items;
  return result;
}

std::vector<LayerAttention> Model::attention(const BatchView& item, uint64_t draw) {
  constexpr int64_t kMostTokens = 4096;
  if (item.items() != 1 || item.tokens() > kMostTokens) {
    throw ModelError(fmt::format("item: expected one item of at most {} tokens, got {} of {}",
                                 kMostTokens, item.items(), item.tokens()));
  }
  KeyedDraws draws(*impl_->backend, impl_->seed, RandomPurpose::kEvaluationHashProjection, draw, 0);
  Pass pass = impl_->begin(item, draws, false, false, 0.0f);
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
