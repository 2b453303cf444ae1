#include "oracle_math.hpp"

namespace hax_test {

Array linear(const Array& x, const Array& w, const Array& bias) {
  const int64_t in = w.size(1), out = w.size(0);
  const Array rows = x.reshape({-1, in});
  Array y({rows.size(0), out});
  for (int64_t r = 0; r < rows.size(0); ++r) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = bias.present() ? bias.at(o) : 0.0;
      for (int64_t i = 0; i < in; ++i) sum += rows.at(r, i) * w.at(o, i);
      y.at(r, o) = sum;
    }
  }
  std::vector<int64_t> shape = x.shape;
  shape.back() = out;
  return y.reshape(shape);
}

LinearGrads linear_backward(const Array& x, const Array& w, const Array& dy) {
  const int64_t in = w.size(1), out = w.size(0);
  const Array rows = x.reshape({-1, in}), drows = dy.reshape({-1, out});
  LinearGrads grads{zeros_like(rows), zeros_like(w), zeros({out})};
  for (int64_t r = 0; r < rows.size(0); ++r) {
    for (int64_t o = 0; o < out; ++o) {
      const double d = drows.at(r, o);
      grads.dbias.at(o) += d;
      for (int64_t i = 0; i < in; ++i) {
        grads.dx.at(r, i) += d * w.at(o, i);
        grads.dw.at(o, i) += d * rows.at(r, i);
      }
    }
  }
  grads.dx = grads.dx.reshape(x.shape);
  return grads;
}

}  // namespace hax_test
