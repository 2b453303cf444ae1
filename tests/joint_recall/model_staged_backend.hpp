// The test backend for callers whose numbers lie in host memory: every operand is brought to the backend before
// a call and back after it.
#pragma once

#include <functional>

#include "model_test_backend.hpp"

namespace joint_recall {

class StagedBackend {
 public:
  void gemm(bool transpose_a, bool transpose_b, ConstMatrix a, ConstMatrix b, ConstMatrix addend,
            Matrix c) {
    Staging s(*backend_);
    backend_->gemm(transpose_a, transpose_b, s(a), s(b), s(addend), s(c));
  }
  void rmsnorm(ConstMatrix x, const float* weight, float eps, Matrix y) {
    Staging s(*backend_);
    backend_->rmsnorm(s(x), s(weight, x.columns), eps, s(y));
  }
  void rmsnorm_backward(ConstMatrix x, const float* weight, float eps, ConstMatrix dy,
                        ConstMatrix addend, Matrix dx, float* d_weight) {
    Staging s(*backend_);
    backend_->rmsnorm_backward(s(x), s(weight, x.columns), eps, s(dy), s(addend), s(dx),
                               s(d_weight, x.columns));
  }
  void gated_sum(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate, Matrix out) {
    Staging s(*backend_);
    backend_->gated_sum({s(y), s(o), s(E, y.columns), s(gate)}, s(out));
  }
  void gated_sum_backward(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                          ConstMatrix d_out, Matrix dy, Matrix d_o, Matrix d_gate, float* d_E) {
    Staging s(*backend_);
    backend_->gated_sum_backward({s(y), s(o), s(E, y.columns), s(gate)}, s(d_out),
                                 {s(dy), s(d_o), s(d_gate), s(d_E, y.columns)});
  }
  void gated_rmsnorm(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                     const float* weight, float eps, Matrix out) {
    Staging s(*backend_);
    backend_->gated_rmsnorm({s(y), s(o), s(E, y.columns), s(gate)}, s(weight, y.columns), eps,
                            s(out));
  }
  void gated_rmsnorm_backward(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                              const float* weight, float eps, ConstMatrix d_out, Matrix dy,
                              Matrix d_o, Matrix d_gate, float* d_E, float* d_weight) {
    Staging s(*backend_);
    backend_->gated_rmsnorm_backward({s(y), s(o), s(E, y.columns), s(gate)}, s(weight, y.columns),
                                     eps, s(d_out), {s(dy), s(d_o), s(d_gate), s(d_E, y.columns)},
                                     s(d_weight, y.columns));
  }
  void gather_rows(ConstMatrix table, const int32_t* index, Matrix out) {
    Staging s(*backend_);
    backend_->gather_rows(s(table), s(index, out.rows), s(out));
  }
  void scatter_add_rows(ConstMatrix d_out, const int32_t* index, Matrix d_table) {
    Staging s(*backend_);
    backend_->scatter_add_rows(s(d_out), s(index, d_out.rows), s(d_table));
  }
  void scatter_rows(ConstMatrix source, const int32_t* index, Matrix target) {
    Staging s(*backend_);
    backend_->scatter_rows(s(source), s(index, source.rows), s(target));
  }
  void mask_rows(const uint8_t* mask, Matrix x) {
    Staging s(*backend_);
    backend_->mask_rows(s(mask, x.rows), s(x));
  }
  void add(ConstMatrix source, Matrix target) {
    Staging s(*backend_);
    backend_->add(s(source), s(target));
  }
  void copy(ConstTokens source, Tokens target) {
    Staging s(*backend_);
    backend_->copy(s.tokens(source), s.tokens(target));
  }
  void negated_exp(const float* A_log, int64_t count, float* A) {
    Staging s(*backend_);
    backend_->negated_exp(s(A_log, count), count, s(A, count));
  }
  void negated_exp_backward(const float* A, const float* dA, int64_t count, float* d_A_log) {
    Staging s(*backend_);
    backend_->negated_exp_backward(s(A, count), s(dA, count), count, s(d_A_log, count));
  }
  void rope(const int32_t* position, int64_t num_heads, double theta, bool inverse, Matrix x) {
    Staging s(*backend_);
    backend_->rope(s(position, x.rows), num_heads, theta, inverse, s(x));
  }
  void cross_entropy(const int32_t* label, const float* scale, ConstMatrix logits, float* loss,
                     int32_t* prediction, Matrix d_logits) {
    Staging s(*backend_);
    backend_->cross_entropy(s(label, logits.rows), s(scale, 1), s(logits), s(loss, logits.rows),
                            s(prediction, logits.rows), s(d_logits));
  }
  void score_batch(const float* loss, const int32_t* prediction, const int32_t* target,
                   const int32_t* offset, int64_t items, BatchScores* scores) {
    Staging s(*backend_);
    const int64_t asked = offset[items];
    backend_->score_batch(s(loss, asked), s(prediction, asked), s(target, asked),
                          s(offset, items + 1), items, s(scores, 1));
  }
  void adamw(const AdamwArgs& args, int64_t count, const float* gradient, float* value,
             float* first_moment, float* second_moment) {
    Staging s(*backend_);
    const AdamwNumbers numbers = adamw_numbers(args);
    backend_->adamw(s(&numbers, 1), count, s(gradient, count), s(value, count),
                    s(first_moment, count), s(second_moment, count), nullptr);
  }
  void random_normal(const RandomKey& key, int64_t count, float* out) {
    Staging s(*backend_);
    backend_->random_normal(key, nullptr, count, s(out, count));
  }
  void random_uniform(const RandomKey& key, int64_t count, float* out) {
    Staging s(*backend_);
    backend_->random_uniform(key, nullptr, count, s(out, count));
  }
  void top_positions(const float* noise, const uint8_t* mask, const int32_t* offset, int64_t items,
                     int64_t sequences, int64_t length, int64_t count, int32_t* pick) {
    Staging s(*backend_);
    const int64_t tokens = offset != nullptr ? offset[sequences] : sequences * length;
    backend_->top_positions(s(noise, tokens), s(mask, tokens), s(offset, sequences + 1), items,
                            sequences, length, count, s(pick, sequences * count));
  }

 private:
  // Operands of one call; what is not const comes back at its end.
  class Staging {
   public:
    explicit Staging(Backend& backend) : backend_(backend) {}
    ~Staging() {
      for (const auto& finish : finish_) finish();
    }
    Staging(const Staging&) = delete;
    Staging& operator=(const Staging&) = delete;

    template <class T>
    T* operator()(T* host, int64_t count) {
      if (host == nullptr) return nullptr;
      const size_t bytes = static_cast<size_t>(count) * sizeof(T);
      void* there = backend_.allocate(bytes);
      backend_.copy_in(there, host, bytes);
      finish_.push_back([this, host, there, bytes] {
        if constexpr (!std::is_const_v<T>) backend_.copy_out(host, there, bytes);
        backend_.release(there);
      });
      return static_cast<T*>(there);
    }
    template <class T>
    BasicMatrix<T> operator()(BasicMatrix<T> host) {
      return {(*this)(host.data, host.rows * host.stride), host.rows, host.columns, host.stride};
    }

    template <class Void>
    BasicTokens<Void> tokens(BasicTokens<Void> host) {
      using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
      auto* bytes = static_cast<Byte*>(host.data);
      return {(*this)(bytes, host.rows * host.stride * bytes_of(host.element)), host.rows,
              host.columns, host.stride, host.element};
    }

   private:
    Backend& backend_;
    std::vector<std::function<void()>> finish_;
  };

  std::unique_ptr<Backend> backend_ = make_test_backend();
};

}  // namespace joint_recall
