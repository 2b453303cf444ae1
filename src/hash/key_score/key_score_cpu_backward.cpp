#include "hash/key_score/key_score_cpu.hpp"

namespace hax::key_score {
namespace {

// One part's sums of gradients.
struct Gradients {
  float *dW1, *dW2, *db1, *db2, *dW3, *db3;

  Gradients(const Inputs& p, const BackwardPlan& plan, int64_t part) {
    const int64_t row = p.row();
    dW1 = plan.gradients + part * plan.part_floats;
    dW2 = dW1 + gradient_rows(p) * row;
    db1 = dW2 + gradient_rows(p) * row;
    db2 = db1 + row;
    dW3 = db2 + row;
    db3 = dW3 + row;
  }
};

// Tokens gathered until there are enough for a step through the MLP. Only those whose score has a
// gradient are gathered; the ranking loss gives one to few of them.
class Batch {
 public:
  Batch(const BackwardParams& p, const BackwardPlan& plan, int64_t part, float* scratch)
      : p_(p), plan_(plan), out_(p, plan, part), row_(p.row()), input_(scratch) {
    hidden1_ = input_ + kStep * row_;
    hidden2_ = hidden1_ + kStep * row_;
    dsum1_ = hidden2_ + kStep * row_;
    dsum2_ = dsum1_ + kStep * row_;
    simd::zero_row(scratch, kBackwardBuffers * kStep * row_);
    simd::zero_row(out_.dW1, plan.part_floats);
  }

  void add(const TileReader& reader, int64_t t, float dscore) {
    reader.read(input_ + count_ * row_, t);
    dscore_[count_] = dscore;
    if (++count_ == kStep) flush();
  }

  void flush() {
    if (count_ == 0) return;
    const Vectors v = vectors_of(p_, plan_.weights);
    hidden_layer(p_, input_, plan_.weights.W1, v.b1, count_, hidden1_);
    hidden_layer(p_, hidden1_, plan_.weights.W2, v.b2, count_, hidden2_);
    output_gradients(v);
    add_weight_gradient(dsum2_, hidden1_, p_.dW2, out_.dW2);
    add_bias_gradient(dsum2_, out_.db2);
    apply_layer(
        p_, dsum2_, plan_.weights.W2_backward, count_, [](int64_t) { return simd::Vec{}; },
        [&](int64_t row, int64_t column, simd::Vec sum) {
          const simd::Vec hidden = simd::load(hidden1_ + row * row_ + column);
          simd::store(dsum1_ + row * row_ + column, hidden <= 0.0f ? simd::Vec{} : sum);
        });
    add_weight_gradient(dsum1_, input_, p_.dW1, out_.dW1);
    add_bias_gradient(dsum1_, out_.db1);
    count_ = 0;
  }

 private:
  // Gradients of the output layer, and of the second hidden layer's sums.
  void output_gradients(const Vectors& v) {
    for (int64_t i = 0; i < p_.width(); i += simd::kLanes) {
      const simd::Vec W3 = simd::load(v.W3 + i);
      simd::Vec dW3 = {};
      for (int64_t t = 0; t < count_; ++t) {
        const simd::Vec hidden = simd::load(hidden2_ + t * row_ + i);
        dW3 += dscore_[t] * hidden;
        simd::store(dsum2_ + t * row_ + i, hidden <= 0.0f ? simd::Vec{} : dscore_[t] * W3);
      }
      simd::store(out_.dW3 + i, simd::load(out_.dW3 + i) + dW3);
    }
    float db3 = 0.0f;
    for (int64_t t = 0; t < count_; ++t) db3 += dscore_[t];
    *out_.db3 += db3;
  }

  // total[j][i] += sum_t dsum[t][j] in[t][i]
  void add_weight_gradient(const float* dsum, const float* in, const Tensor& wanted, float* total) {
    if (!wanted) return;
    for (int64_t column = 0; column < p_.width(); column += kPanel) {
      for (int64_t j = 0; j < p_.width(); j += kBlockRows) {
        float* block = total + j * row_ + column;
        gemm::multiply_block(
            {dsum + j, 1, row_}, in + column, row_, count_,
            [&](int r, int lane) { return simd::load(block + r * row_ + lane); },
            [&](int r, int lane, simd::Vec sum) { simd::store(block + r * row_ + lane, sum); });
      }
    }
  }

  void add_bias_gradient(const float* dsum, float* total) {
    for (int64_t i = 0; i < p_.width(); i += simd::kLanes) {
      simd::Vec sum = {};
      for (int64_t t = 0; t < count_; ++t) sum += simd::load(dsum + t * row_ + i);
      simd::store(total + i, simd::load(total + i) + sum);
    }
  }

  const BackwardParams& p_;
  const BackwardPlan& plan_;
  Gradients out_;
  int64_t row_;
  float *input_, *hidden1_, *hidden2_, *dsum1_, *dsum2_;  // kStep rows each
  float dscore_[kStep];
  int64_t count_ = 0;
};

void accumulate_part(const BackwardParams& p, const BackwardPlan& plan, int64_t part,
                     float* scratch) {
  const int64_t tasks = p.tiles().slots() * p.heads;
  Batch batch(p, plan, part, scratch);
  for (int64_t task = part * tasks / plan.parts; task < (part + 1) * tasks / plan.parts; ++task) {
    const int64_t head = task % p.heads;
    TileReader reader(p, plan.query, task / p.heads, head);
    const SequenceTiles::Tile& tile = reader.tile();
    for (int64_t t = tile.begin; t < tile.end; ++t) {
      reader.advance(t);
      const float dscore = *p.dscore.at<float>(tile.range.row, head, tile.range.begin + t);
      if (dscore != 0.0f) batch.add(reader, t, dscore);
    }
  }
  batch.flush();
}

// Adds one row of the parts in order; `first` is its place in the first part.
void store_total(const BackwardPlan& plan, const Tensor& to, int64_t offset, const float* first,
                 int64_t n) {
  float total[2 * kMaxFeatures] = {};
  for (int64_t part = 0; part < plan.parts; ++part) {
    const float* from = first + part * plan.part_floats;
    for (int64_t i = 0; i < n; ++i) total[i] += from[i];
  }
  simd::store_row(to, offset, total, n);
}

}  // namespace

template <>
void cpu_backward<kCpuLevel>(const BackwardParams& p, const BackwardPlan& plan, int num_threads) {
  parallel_for(num_threads, plan.parts, [&](int64_t part, int thread) {
    accumulate_part(p, plan, part, plan.scratch + thread * kBackwardBuffers * kStep * p.row());
  });
  const Gradients first(p, plan, 0);
  const int64_t width = p.width();
  parallel_for(num_threads, width, [&](int64_t j, int) {
    if (p.dW1) store_total(plan, p.dW1, p.dW1.offset(j), first.dW1 + j * p.row(), width);
    if (p.dW2) store_total(plan, p.dW2, p.dW2.offset(j), first.dW2 + j * p.row(), width);
  });
  if (p.db1) store_total(plan, p.db1, 0, first.db1, width);
  if (p.db2) store_total(plan, p.db2, 0, first.db2, width);
  if (p.dW3) store_total(plan, p.dW3, 0, first.dW3, width);
  if (p.db3) store_total(plan, p.db3, 0, first.db3, 1);
}

}  // namespace hax::key_score
