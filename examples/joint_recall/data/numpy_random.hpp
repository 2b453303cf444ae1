#pragma once

#include <bit>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <utility>

namespace joint_recall {

// NumPy's legacy stream: np.random.seed(seed), np.random.randint and np.random.permutation draw for
// draw. NumPy seeds MT19937 with an integer the way std::mt19937 does, and takes bounded numbers by
// masking a 32-bit draw to the bound's bits and drawing again while it is too large.
class NumpyRandom {
 public:
  explicit NumpyRandom(std::uint32_t seed) : engine_(seed) {}

  // Uniform on [0, max]; nothing is drawn when max is 0.
  std::uint32_t bounded(std::uint32_t max) {
    if (max == 0) return 0;
    const std::uint32_t mask = ~std::uint32_t{0} >> std::countl_zero(max);
    std::uint32_t draw = next() & mask;
    while (draw > max) draw = next() & mask;
    return draw;
  }

  // np.random.randint(0, limit, out.size())
  template <class T>
  void randint(std::uint32_t limit, std::span<T> out) {
    for (T& number : out) number = static_cast<T>(bounded(limit - 1));
  }

  // np.random.permutation(out.size())
  template <class T>
  void permutation(std::span<T> out) {
    std::iota(out.begin(), out.end(), T{0});
    for (std::size_t i = out.size(); i-- > 1;) {
      std::swap(out[i], out[bounded(static_cast<std::uint32_t>(i))]);
    }
  }

 private:
  std::uint32_t next() { return static_cast<std::uint32_t>(engine_()); }

  std::mt19937 engine_;
};

}  // namespace joint_recall
