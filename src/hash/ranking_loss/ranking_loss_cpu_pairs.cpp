#include "core/parallel.hpp"
#include "core/simd_rows.hpp"
#include "hash/ranking_loss/ranking_loss.hpp"

namespace hax::ranking_loss {
namespace {

using simd::IntVec;
using simd::kLanes;
using simd::Vec;

constexpr int64_t kZeroTokens = 4096;  // set to 0 by one task

// The picks of one row.
struct Row {
  int64_t count;
  const float* score;
  const float* target;

  Row(const Inputs& p, const PickPlan& plan, int64_t row)
      : count(plan.count[row]),
        score(plan.score + row * p.padded_picks()),
        target(plan.target + row * p.padded_picks()) {}
};

HAX_INLINE Vec one_where(IntVec mask) { return mask ? simd::set(1.0f) : Vec{}; }

// f(score of a minus score of b, target of b) added up over all picks b.
template <class F>
HAX_INLINE float sum_over_pairs(const Row& row, int64_t a, F&& f) {
  Vec sum = {};
  for (int64_t b = 0; b < row.count; b += kLanes) {
    const int64_t left = row.count - b;
    const int used = left < kLanes ? static_cast<int>(left) : kLanes;
    const Vec term = f(row.score[a] - simd::load_first(row.score + b, used),
                       simd::load_first(row.target + b, used));
    IntVec lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    sum += lane < used ? term : Vec{};
  }
  return simd::sum(sum);
}

// Binary cross entropy of the logit x between a and every b.
float pair_losses(const Row& row, int64_t a) {
  const float target = row.target[a];
  return sum_over_pairs(row, a, [&](Vec x, Vec other) {
    const Vec wanted = 0.5f * (one_where(target > other) + one_where(target >= other));
    return simd::softplus(x) - wanted * x;
  });
}

// Derivative of the sum over all ordered pairs by a's score. The pairs (a, b) and (b, a) together give
// sigmoid(x) - sigmoid(-x) - ([t_a > t_b] - [t_b > t_a]).
float pair_gradients(const Row& row, int64_t a) {
  const float target = row.target[a];
  return sum_over_pairs(row, a, [&](Vec x, Vec other) {
    const Vec decay = simd::exp(-simd::abs(x));
    const Vec slope = (1.0f - decay) / (1.0f + decay);
    const Vec difference = x < 0.0f ? -slope : slope;
    return difference - (one_where(target > other) - one_where(target < other));
  });
}

void zero_scores(const BackwardParams& p, int64_t b, int64_t head, int64_t begin) {
  const int64_t left = p.sequences.length - begin;
  const int64_t end = begin + (left < kZeroTokens ? left : kZeroTokens);
  for (int64_t t = begin; t < end; ++t) *p.dscore.at<float>(b, head, t) = 0.0f;
}

// Calls f(row, a) for every pick a of every row.
template <class F>
void for_each_pick(const Inputs& p, const PickPlan& plan, int num_threads, F&& f) {
  const int64_t blocks = p.pair_blocks();
  parallel_for(num_threads, p.rows() * blocks, [&](int64_t task, int) {
    const Row row(p, plan, task / blocks);
    const int64_t first = task % blocks * kPairRows;
    const int64_t last = row.count - first < kPairRows ? row.count : first + kPairRows;
    for (int64_t a = first; a < last; ++a) f(task / blocks, row, a);
  });
}

}  // namespace

template <>
void cpu_loss<kCpuLevel>(const ForwardParams& p, const ForwardPlan& plan, int num_threads) {
  const int64_t row_length = p.padded_picks();
  for_each_pick(p, plan.picks, num_threads, [&](int64_t index, const Row& row, int64_t a) {
    plan.losses[index * row_length + a] = pair_losses(row, a);
  });
  double total = 0.0;
  int64_t rows = 0;
  for (int64_t index = 0; index < p.rows(); ++index) {
    const double count = static_cast<double>(plan.picks.count[index]);
    if (count == 0.0) continue;
    double sum = 0.0;
    for (int64_t a = 0; a < plan.picks.count[index]; ++a)
      sum += plan.losses[index * row_length + a];
    total += sum / (count * count);
    ++rows;
  }
  *p.loss.at<float>(0) = rows > 0 ? static_cast<float>(total / static_cast<double>(rows)) : 0.0f;
}

template <>
void cpu_backward<kCpuLevel>(const BackwardParams& p, const BackwardPlan& plan, int num_threads) {
  const int64_t row_length = p.padded_picks();
  const int64_t zero_tasks = ceil_div(p.sequences.length, kZeroTokens);
  parallel_for(num_threads, p.sequences.batch * p.heads * zero_tasks, [&](int64_t task, int) {
    const int64_t row = task / zero_tasks;
    zero_scores(p, row / p.heads, row % p.heads, task % zero_tasks * kZeroTokens);
  });
  parallel_for(num_threads, p.rows(), [&](int64_t row, int) {
    for (int64_t i = 0; i < plan.picks.count[row]; ++i) {
      plan.picks.target[row * row_length + i] =
          *p.target.at<float>(row / p.heads, row % p.heads, plan.picks.entry[row * p.picks + i]);
    }
  });
  for_each_pick(p, plan.picks, num_threads, [&](int64_t index, const Row& row, int64_t a) {
    plan.gradient[index * row_length + a] = pair_gradients(row, a);
  });
  int64_t rows = 0;
  for (int64_t row = 0; row < p.rows(); ++row) rows += plan.picks.count[row] > 0;
  const double dloss = *p.dloss.at<float>(0);
  parallel_for(num_threads, p.rows(), [&](int64_t row, int) {
    const int64_t s = row / p.heads, head = row % p.heads;
    const double count = static_cast<double>(plan.picks.count[row]);
    const double weight = dloss / (static_cast<double>(rows) * count * count);
    const Sequences::Range range = p.sequences.range(s);
    for (int64_t i = 0; i < plan.picks.count[row]; ++i) {
      const int32_t position = *p.pick.at<int32_t>(s, head, plan.picks.entry[row * p.picks + i]);
      *p.dscore.at<float>(range.row, head, range.begin + position) +=
          static_cast<float>(weight * plan.gradient[row * row_length + i]);
    }
  });
}

}  // namespace hax::ranking_loss
