// Norms, gates, the loss and the optimiser: loops over rows, compiled for several instruction sets.
#include <algorithm>
#include <bit>
#include <cmath>

#include "model/backend_cpu.hpp"
#include "model/cpu_kernels.hpp"

namespace joint_recall {
namespace {

// term(0) + ... + term(count - 1) as sixteen running sums, so that the order is the same at any vector
// length.
template <class Term>
[[gnu::always_inline]] inline float lane_sum(int64_t count, Term term) {
  float sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int64_t lane = 0; lane < 16; ++lane) sums[lane] += term(i + lane);
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) sums[lane] += term(i);
  for (int64_t half = 8; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

[[gnu::always_inline]] inline float inverse_rms(const float* x, int64_t columns, float eps) {
  const float squares = lane_sum(columns, [x](int64_t c) { return x[c] * x[c]; });
  return 1.0f / std::sqrt(squares / static_cast<float>(columns) + eps);
}

JOINT_RECALL_CPU_LEVELS
void rmsnorm_rows(ConstMatrix x, const float* weight, float eps, Matrix y, int64_t begin,
                  int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* in = x.row(r);
    float* out = y.row(r);
    const float scale = inverse_rms(in, x.columns, eps);
#pragma omp simd
    for (int64_t c = 0; c < x.columns; ++c) out[c] = in[c] * scale * weight[c];
  }
}

JOINT_RECALL_CPU_LEVELS
void rmsnorm_backward_rows(ConstMatrix x, const float* weight, float eps, ConstMatrix dy,
                           ConstMatrix addend, Matrix dx, float* d_weight, int64_t begin,
                           int64_t end) {
  const int64_t columns = x.columns;
  for (int64_t r = begin; r < end; ++r) {
    const float* in = x.row(r);
    const float* gradient = dy.row(r);
    float* out = dx.row(r);
    const float scale = inverse_rms(in, columns, eps);
    const float product =
        lane_sum(columns, [=](int64_t c) { return gradient[c] * in[c] * weight[c]; });
    const float along = product * scale * scale / static_cast<float>(columns);
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) d_weight[c] += gradient[c] * in[c] * scale;
    if (addend.present()) {
      const float* old = addend.row(r);
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c)
        out[c] = old[c] + scale * (gradient[c] * weight[c] - in[c] * along);
    } else {
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c)
        out[c] = scale * (gradient[c] * weight[c] - in[c] * along);
    }
  }
}

JOINT_RECALL_CPU_LEVELS
void gated_sum_rows(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate, Matrix out,
                    int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float *y_row = y.row(r), *g = gate.row(r);
    float* to = out.row(r);
    if (o.present()) {
      const float* o_row = o.row(r);
#pragma omp simd
      for (int64_t c = 0; c < y.columns; ++c) {
        to[c] = (y_row[c] + E[c] * o_row[c]) * (g[c] * sigmoid(g[c]));
      }
    } else {
#pragma omp simd
      for (int64_t c = 0; c < y.columns; ++c) to[c] = y_row[c] * (g[c] * sigmoid(g[c]));
    }
  }
}

JOINT_RECALL_CPU_LEVELS
void gated_sum_backward_rows(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                             ConstMatrix d_out, Matrix dy, Matrix d_o, Matrix d_gate, float* d_E,
                             int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float *y_row = y.row(r), *g = gate.row(r), *from = d_out.row(r);
    float *to = dy.row(r), *to_gate = d_gate.row(r);
    if (o.present()) {
      const float* o_row = o.row(r);
      float* to_o = d_o.row(r);
#pragma omp simd
      for (int64_t c = 0; c < y.columns; ++c) {
        const float s = sigmoid(g[c]);
        const float d = from[c], through = d * g[c] * s;
        to_gate[c] = d * (y_row[c] + E[c] * o_row[c]) * (s * (1.0f + g[c] * (1.0f - s)));
        to_o[c] = through * E[c];
        d_E[c] += through * o_row[c];
        to[c] = through;
      }
    } else {
#pragma omp simd
      for (int64_t c = 0; c < y.columns; ++c) {
        const float s = sigmoid(g[c]);
        const float d = from[c];
        to_gate[c] = d * y_row[c] * (s * (1.0f + g[c] * (1.0f - s)));
        to[c] = d * g[c] * s;
      }
    }
  }
}

JOINT_RECALL_CPU_LEVELS
void cross_entropy_rows(const int32_t* label, const float* scale, ConstMatrix logits, float* loss,
                        int32_t* prediction, Matrix d_logits, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* row = logits.row(r);
    const int64_t best = std::max_element(row, row + logits.columns) - row;
    if (label[r] < 0) {
      prediction[r] = static_cast<int32_t>(best);
      loss[r] = 0.0f;
      if (d_logits.present()) std::fill_n(d_logits.row(r), logits.columns, 0.0f);
      continue;
    }
    const float largest = row[best];
    const float wanted = row[label[r]];
    prediction[r] = static_cast<int32_t>(best);
    const float sum =
        lane_sum(logits.columns, [=](int64_t c) { return fast_exp(row[c] - largest); });
    const float log_sum = largest + std::log(sum);
    loss[r] = log_sum - wanted;
    if (!d_logits.present()) continue;
    float* out = d_logits.row(r);
    for (int64_t c = 0; c < logits.columns; ++c) out[c] = *scale * fast_exp(row[c] - log_sum);
    out[label[r]] -= *scale;
  }
}

JOINT_RECALL_CPU_LEVELS
void adamw_range(const AdamwNumbers& f, const float* gradient, float* value, float* first,
                 float* second, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float g = gradient[i];
    first[i] = f.beta1 * first[i] + f.one_minus_beta1 * g;
    second[i] = f.beta2 * second[i] + f.one_minus_beta2 * g * g;
    const float denominator = std::sqrt(second[i]) / f.root_correction + f.eps;
    value[i] = value[i] * f.decay - f.step_size * first[i] / denominator;
  }
}

JOINT_RECALL_CPU_LEVELS
void to_bf16_rows(ConstMatrix source, uint16_t* target, int64_t stride, int64_t begin,
                  int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* from = source.row(r);
    uint16_t* to = target + r * stride;
    for (int64_t c = 0; c < source.columns; ++c) {
      const auto bits = std::bit_cast<uint32_t>(from[c]);
      const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
      const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
      to[c] = static_cast<uint16_t>(nan ? (bits >> 16 | 0x40u) : rounded);
    }
  }
}

}  // namespace

void CpuBackend::rmsnorm(ConstTokens x, const float* weight, float eps, Tokens y) {
  for_row_chunks(x.rows, num_threads_, [&](int64_t begin, int64_t end) {
    rmsnorm_rows(x.fp32(), weight, eps, y.fp32(), begin, end);
  });
}

void CpuBackend::rmsnorm_backward(ConstTokens x, const float* weight, float eps, ConstTokens dy,
                                  ConstTokens addend, Tokens dx, float* d_weight) {
  for_row_chunks_with_sum(x.rows, num_threads_, x.columns, scratch_, d_weight,
                          [&](int64_t begin, int64_t end, float* partial) {
                            rmsnorm_backward_rows(x.fp32(), weight, eps, dy.fp32(), addend.fp32(),
                                                  dx.fp32(), partial, begin, end);
                          });
}

void CpuBackend::gated_sum(const GatedSum& sum, Tokens out) {
  for_row_chunks(out.rows, num_threads_, [&](int64_t begin, int64_t end) {
    gated_sum_rows(sum.y.fp32(), sum.o.fp32(), sum.E, sum.gate.fp32(), out.fp32(), begin, end);
  });
}

void CpuBackend::gated_sum_backward(const GatedSum& sum, ConstTokens d_out,
                                    const GatedSumGradients& gradients) {
  const int64_t summed = sum.o.present() ? sum.y.columns : 0;
  for_row_chunks_with_sum(sum.y.rows, num_threads_, summed, scratch_, gradients.E,
                          [&](int64_t begin, int64_t end, float* partial) {
                            gated_sum_backward_rows(sum.y.fp32(), sum.o.fp32(), sum.E,
                                                    sum.gate.fp32(), d_out.fp32(),
                                                    gradients.y.fp32(), gradients.o.fp32(),
                                                    gradients.gate.fp32(), partial, begin, end);
                          });
}

Matrix CpuBackend::gated(const GatedSum& sum) {
  gated_.resize(static_cast<size_t>(sum.y.rows * sum.y.columns));
  const Matrix result = compact(gated_.data(), sum.y.rows, sum.y.columns);
  gated_sum(sum, result);
  return result;
}

void CpuBackend::gated_rmsnorm(const GatedSum& sum, const float* weight, float eps, Tokens out) {
  gated_sum(sum, out);
  rmsnorm(out, weight, eps, out);
}

void CpuBackend::gated_rmsnorm_backward(const GatedSum& sum, const float* weight, float eps,
                                        ConstTokens d_out, const GatedSumGradients& gradients,
                                        float* d_weight) {
  const Matrix x = gated(sum);
  rmsnorm_backward(x, weight, eps, d_out, {}, gradients.y, d_weight);
  gated_sum_backward(sum, gradients.y, gradients);
}

void CpuBackend::negated_exp(const float* A_log, int64_t count, float* A) {
  for (int64_t i = 0; i < count; ++i) A[i] = -std::exp(A_log[i]);
}

void CpuBackend::negated_exp_backward(const float* A, const float* dA, int64_t count,
                                      float* d_A_log) {
  for (int64_t i = 0; i < count; ++i) d_A_log[i] += dA[i] * A[i];
}

void CpuBackend::rope(const int32_t* position, int64_t num_heads, double theta, bool inverse,
                      Tokens tokens) {
  const Matrix x = tokens.fp32();
  const int64_t head_dim = x.columns / num_heads, half = head_dim / 2;
  std::vector<double> frequency(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    frequency[static_cast<size_t>(i)] =
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  }
  for_row_chunks(x.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = position[r] * frequency[static_cast<size_t>(i)];
        const auto cosine = static_cast<float>(std::cos(angle));
        const auto sine = static_cast<float>(inverse ? -std::sin(angle) : std::sin(angle));
        for (float* head = x.row(r); head < x.row(r) + x.columns; head += head_dim) {
          const float x1 = head[i], x2 = head[i + half];
          head[i] = x1 * cosine - x2 * sine;
          head[i + half] = x2 * cosine + x1 * sine;
        }
      }
    }
  });
}

void CpuBackend::cross_entropy(const int32_t* label, const float* scale, ConstMatrix logits,
                               float* loss, int32_t* prediction, Tokens d_logits) {
  for_row_chunks(logits.rows, num_threads_, [&](int64_t begin, int64_t end) {
    cross_entropy_rows(label, scale, logits, loss, prediction, d_logits.fp32(), begin, end);
  });
}

void CpuBackend::score_batch(const float* loss, const int32_t* prediction, const int32_t* target,
                             const int32_t* offset, int64_t items, BatchScores* scores) {
  *scores = {};
  for (int32_t j = 0; j < offset[items]; ++j) scores->loss += double{loss[j]};
  if (offset[items] > 0) scores->loss /= offset[items];
  for (int64_t item = 0; item < items; ++item) {
    const int32_t begin = offset[item], end = offset[item + 1];
    if (begin == end) continue;
    int64_t right = 0;
    for (int32_t j = begin; j < end; ++j) right += prediction[j] == target[j];
    scores->accuracy += static_cast<double>(right) / (end - begin);
    ++scores->items;
  }
  if (scores->items > 0) scores->accuracy /= static_cast<double>(scores->items);
}

void CpuBackend::adamw(const AdamwNumbers* numbers, int64_t count, const float* gradient,
                       float* value, float* first_moment, float* second_moment, uint16_t*) {
  constexpr int64_t kSpan = 4096;
  for_row_chunks((count + kSpan - 1) / kSpan, num_threads_, [&](int64_t begin, int64_t end) {
    adamw_range(*numbers, gradient, value, first_moment, second_moment, begin * kSpan,
                std::min(end * kSpan, count));
  });
}

void CpuBackend::copy(ConstTokens source, Tokens target) {
  for_row_chunks(target.rows, num_threads_, [&](int64_t begin, int64_t end) {
    if (target.is_bf16()) {
      to_bf16_rows(source.fp32(), static_cast<uint16_t*>(target.data), target.stride, begin, end);
      return;
    }
    const Matrix to = target.fp32();
    for (int64_t r = begin; r < end; ++r) {
      if (source.is_bf16()) {
        const auto* from = static_cast<const uint16_t*>(source.data) + r * source.stride;
        for (int64_t c = 0; c < to.columns; ++c) {
          to.row(r)[c] = std::bit_cast<float>(static_cast<uint32_t>(from[c]) << 16);
        }
      } else {
        std::copy_n(source.fp32().row(r), to.columns, to.row(r));
      }
    }
  });
}

}  // namespace joint_recall
