#include "model/model.hpp"

#include <fmt/format.h>

#include <optional>

#include "model/attention_picture.hpp"
#include "model/batch_on_device.hpp"
#include "model/head.hpp"
#include "model/initial_weights.hpp"
#include "model/keyed_draws.hpp"
#include "model/layers.hpp"
#include "model/parameters.hpp"
#include "model/step_results.hpp"

namespace joint_recall {
namespace {

// First entries of work keys.
constexpr int64_t kFirstMicroStep = 0, kLaterMicroStep = 1, kWholeStep = 2, kEvaluation = 3;

}  // namespace

struct Model::Impl {
  Impl(const ModelConfig& model_config, std::shared_ptr<Backend> model_backend, uint64_t model_seed)
      : config(model_config),
        backend(std::move(model_backend)),
        seed(model_seed),
        store(*backend),
        arena(*backend),
        steps(declare_all()),
        results(*backend, static_cast<int64_t>(steps.size())),
        adamw(static_cast<AdamwNumbers*>(backend->allocate(sizeof(AdamwNumbers)))) {
    store.allocate();
    embedding = store.weight("backbone.embeddings.weight");
    head->bind(store, embedding);
    for (ResidualStep& step : steps) step.bind(store);
  }

  ~Impl() {
    backend->forget_recorded();
    backend->release(adamw);
  }

  std::vector<ResidualStep> declare_all() {
    store.declare("backbone.embeddings.weight", {config.vocab_size, config.hidden_size});
    std::vector<ResidualStep> made = make_residual_steps(config, store);
    head.emplace(config, store);
    return made;
  }

  template <class T>
  std::vector<T> download(const T* source, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    backend->copy_out(values.data(), source, values.size() * sizeof(T));
    return values;
  }

  // Empties the arena and brings the batch to the device.
  template <class Batch>
  Pass begin(const Batch& view, const PassNumbers& numbers, KeyedDraws& draws, bool training,
             bool alone) {
    check_batch(view, config.vocab_size);
    arena.reset();
    Pass pass{*backend, arena, draws};
    pass.precision = config.precision;
    pass.training = training;
    const bool records = backend->records();
    pass.branches = records && view.packed() && !alone;
    batch =
        upload_batch(view, numbers, records && !alone, config.base_arch == BaseArch::kSamba, pass);
    draws.at = &batch.numbers->random;
    return pass;
  }

  // kind: what is done with the batch.
  WorkKey work_key(const Pass& pass, int64_t kind) const {
    return {kind,
            pass.batch,
            pass.length,
            pass.sequences,
            batch.asked.count,
            pass.attention_mask != nullptr ? 1 : 0,
            static_cast<int64_t>(reinterpret_cast<uintptr_t>(batch.tokens.data)),
            static_cast<int64_t>(reinterpret_cast<uintptr_t>(this))};
  }

  Matrix forward(Pass& pass) {
    if (batch.tokens.data != nullptr) backend->assemble(batch.tokens, batch.arrays);
    for (ResidualStep& step : steps) step.prepare(pass);
    Matrix hidden = arena.matrix(pass.tokens(), config.hidden_size);
    backend->gather_rows(
        compact(static_cast<const float*>(embedding.value), embedding.rows, embedding.columns),
        batch.inputs, hidden);
    pass.join(Branch::kWeights);  // what prepare() put there, and cleared gradients
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

  // d_hidden: of the head's stream.
  void backward(Pass& pass, Tokens d_hidden) {
    for (size_t s = steps.size(); s-- > 0;) d_hidden = steps[s].backward(pass, d_hidden);
    pass.join(Branch::kScores);  // the head's part of the tied gradient
    backend->scatter_add_rows(d_hidden, batch.inputs, embedding.gradient_matrix());
  }

  void join(Pass& pass) {
    for (const auto branch :
         {Branch::kAttention, Branch::kScores, Branch::kWeights, Branch::kRanking}) {
      pass.join(branch);
    }
  }

  void update(const AdamwNumbers* numbers) {
    if (sum_gradients) sum_gradients(store.part(ParameterPart::kGradient), store.flat_count());
    backend->adamw(numbers, store.flat_count(), store.part(ParameterPart::kGradient),
                   store.part(ParameterPart::kValue), store.part(ParameterPart::kFirstMoment),
                   store.part(ParameterPart::kSecondMoment), store.rounded());
  }

  // One micro-step, and the update where `lr` is given.
  template <class Batch>
  void queue(const Batch& view, const MicroStep& micro_step, const double* lr);
  template <class Batch>
  EvalResult evaluate(const Batch& view, uint64_t draw);

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
  AdamwNumbers* adamw;  // on the device, of an update by itself
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

void Model::set_gradient_sum(GradientSum sum) {
  impl_->backend->forget_recorded();  // which uses the former sum
  impl_->sum_gradients = std::move(sum);
}

template <class Batch>
void Model::Impl::queue(const Batch& view, const MicroStep& micro_step, const double* lr) {
  if (micro_step.count < 1 || micro_step.count > 65536 || micro_step.index < 0 ||
      micro_step.index >= micro_step.count) {
    throw ModelError(fmt::format("micro_step: expected index below count <= 65536, got {} of {}",
                                 micro_step.index, micro_step.count));
  }
  const auto asked = static_cast<double>(view.asked());
  PassNumbers numbers;
  numbers.random = {static_cast<uint64_t>(micro_step.step), static_cast<uint32_t>(micro_step.index),
                    static_cast<uint64_t>(micro_step.first_token)};
  numbers.loss_scale =
      asked == 0.0 ? 0.0f : static_cast<float>(micro_step.loss_share / (asked * micro_step.count));
  numbers.dgate_loss = static_cast<float>(micro_step.gate_loss_weight / micro_step.count);
  if (lr != nullptr) numbers.adamw = adamw_numbers({.lr = *lr, .step = micro_step.step});
  KeyedDraws draws(*backend, seed, RandomPurpose::kHashProjection);
  Pass pass = begin(view, numbers, draws, true, false);
  const bool first = micro_step.index == 0;
  pass.adds_gradients = !first;
  const int64_t kind = lr != nullptr ? kWholeStep : first ? kFirstMicroStep : kLaterMicroStep;
  backend->run(work_key(pass, kind), [&] {
    const Tokens d_hidden = arena.tokens(pass.tokens(), config.hidden_size);
    pass.branch(Branch::kWeights, [&] {
      if (first) store.clear(ParameterPart::kGradient);
      backend->zero(d_hidden.data, static_cast<size_t>(d_hidden.rows * d_hidden.stride *
                                                       bytes_of(d_hidden.element)));
    });
    const Matrix hidden = forward(pass);
    head->train(pass, hidden, batch.asked, d_hidden);
    pass.branch(Branch::kScores, [&] {
      pass.join(Branch::kRanking);  // the ranking loss
      score(pass);
    });
    backward(pass, d_hidden);
    join(pass);
    if (pass.adds_gradients) store.add_fresh_gradients();
    if (lr != nullptr) update(&batch.numbers->adamw);
  });
  results.keep();
}

void Model::queue(const BatchView& batch, const MicroStep& micro_step) {
  impl_->queue(batch, micro_step, nullptr);
}

void Model::queue(const ItemBatch& batch, const MicroStep& micro_step) {
  impl_->queue(batch, micro_step, nullptr);
}

void Model::queue_step(const BatchView& batch, const MicroStep& micro_step, double lr) {
  impl_->queue(batch, micro_step, &lr);
}

void Model::queue_step(const ItemBatch& batch, const MicroStep& micro_step, double lr) {
  impl_->queue(batch, micro_step, &lr);
}

std::shared_ptr<Backend> Model::backend() const { return impl_->backend; }

std::vector<StepResult> Model::take_results() { return impl_->results.take(); }

StepResult Model::forward_backward(const BatchView& batch, const MicroStep& micro_step) {
  queue(batch, micro_step);
  return take_results().back();
}

void Model::apply(int64_t step, double lr) {
  const AdamwNumbers numbers = adamw_numbers({.lr = lr, .step = step});
  impl_->backend->copy_in(impl_->adamw, &numbers, sizeof numbers);
  impl_->update(impl_->adamw);
}

StepResult Model::train_step(const BatchView& batch, int64_t step, double lr,
                             double gate_loss_weight) {
  queue_step(batch, {step, 0, 1, gate_loss_weight}, lr);
  return take_results().back();
}

template <class Batch>
EvalResult Model::Impl::evaluate(const Batch& view, uint64_t draw) {
  KeyedDraws draws(*backend, seed, RandomPurpose::kEvaluationHashProjection);
  Pass pass = begin(view, {.random = {draw, 0, 0}}, draws, false, false);
  backend->run(work_key(pass, kEvaluation), [&] {
    const Matrix hidden = forward(pass);
    head->score(pass, hidden, batch.asked);
    join(pass);
    score(pass);
  });
  EvalResult result;
  result.predictions = download(batch.asked.prediction, view.asked());
  result.targets = download(batch.asked.targets, view.asked());
  BatchScores scores;
  backend->copy_out(&scores, results.latest(), sizeof scores);
  result.loss = scores.loss;
  result.accuracy = scores.accuracy;
  result.items = scores.items;
  return result;
}

EvalResult Model::evaluate(const BatchView& batch, uint64_t draw) {
  return impl_->evaluate(batch, draw);
}

EvalResult Model::evaluate(const ItemBatch& batch, uint64_t draw) {
  return impl_->evaluate(batch, draw);
}

std::vector<LayerAttention> Model::attention(const BatchView& item, uint64_t draw) {
  constexpr int64_t kMostTokens = 4096;
  if (item.items() != 1 || item.tokens() > kMostTokens) {
    throw ModelError(fmt::format("item: expected one item of at most {} tokens, got {} of {}",
                                 kMostTokens, item.items(), item.tokens()));
  }
  KeyedDraws draws(*impl_->backend, impl_->seed, RandomPurpose::kEvaluationHashProjection);
  Pass pass = impl_->begin(item, {.random = {draw, 0, 0}}, draws, false, true);
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
