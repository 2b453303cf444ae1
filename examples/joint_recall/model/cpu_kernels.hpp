// What the CPU backend's kernels share: row loops over threads, sums whose order doesn't depend on
// them, and an exponential that compilers vectorise.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

// Kernels carrying this are compiled for several instruction sets; the loader takes the best one.
// Sanitizers don't survive the loader's choice.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define JOINT_RECALL_CPU_LEVELS __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define JOINT_RECALL_CPU_LEVELS
#endif

namespace joint_recall {

// exp(x) to about 2e-7 relative; 0 and infinity give way to the nearest normal numbers.
[[gnu::always_inline]] inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  // Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits of the sum.
  constexpr float kRound = 12582912.0f;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  // log 2 in two parts, the first short enough for n times it to be exact.
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  return p * std::bit_cast<float>((exponent + 127) << 23);
}

[[gnu::always_inline]] inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

// Rows are cut into chunks of this many, whatever the number of threads.
constexpr int64_t kRowChunk = 64;

// kernel(begin, end) for consecutive ranges of rows.
template <class Kernel>
void for_row_chunks(int64_t rows, int num_threads, Kernel kernel) {
  const int64_t chunks = (rows + kRowChunk - 1) / kRowChunk;
#pragma omp parallel for schedule(static) num_threads(num_threads) if (chunks > 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = chunk * kRowChunk;
    kernel(begin, begin + kRowChunk < rows ? begin + kRowChunk : rows);
  }
}

// The same with sums over all rows: kernel(begin, end, partial) adds its rows to `partial`, `columns`
// zeros at first, and the partial sums are added to `sum` in the rows' order.
template <class Kernel>
void for_row_chunks_with_sum(int64_t rows, int num_threads, int64_t columns,
                             std::vector<float>& scratch, float* sum, Kernel kernel) {
  const int64_t chunks = (rows + kRowChunk - 1) / kRowChunk;
  scratch.assign(static_cast<size_t>(chunks * columns), 0.0f);
  for_row_chunks(rows, num_threads, [&](int64_t begin, int64_t end) {
    kernel(begin, end, scratch.data() + begin / kRowChunk * columns);
  });
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t c = 0; c < columns; ++c) {
      sum[c] += scratch[static_cast<size_t>(chunk * columns + c)];
    }
  }
}

}  // namespace joint_recall
