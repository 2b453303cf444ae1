#include "model/attention_picture.hpp"

#include <cmath>

namespace joint_recall {
namespace {

template <class T>
std::vector<T> fetch(Backend& backend, const T* source, int64_t count) {
  std::vector<T> values(source == nullptr ? 0 : static_cast<size_t>(count));
  backend.copy_out(values.data(), source, values.size() * sizeof(T));
  return values;
}

std::vector<float> fetch(Pass& pass, ConstTokens tokens) {
  const Arena::Scope scope(pass.arena);
  const Matrix dense = pass.arena.matrix(tokens.rows, tokens.columns);
  pass.backend.copy(tokens, dense);
  return fetch(pass.backend, static_cast<const float*>(dense.data), dense.rows * dense.columns);
}

}  // namespace

LayerAttention attention_picture(Pass& pass, int64_t layer, const Attention& a) {
  Backend& backend = pass.backend;
  const int64_t L = pass.tokens(), heads = a.q_heads, width = a.q.columns / a.q_heads;
  const std::vector<float> q = fetch(pass, a.q), k = fetch(pass, a.k);
  const std::vector<float> lse = fetch(backend, static_cast<const float*>(a.lse), heads * L);
  const std::vector<int32_t> key_order = fetch(backend, a.keys.key_order, a.k_heads * L);
  const std::vector<int32_t> begin = fetch(backend, a.keys.begin, heads * L);
  const std::vector<int32_t> end = fetch(backend, a.keys.end, heads * L);
  const std::vector<int32_t> eviction = fetch(backend, a.keys.eviction, a.k_heads * L);

  LayerAttention picture{layer, heads, L, {}, {}};
  picture.patterns.assign(static_cast<size_t>(heads * L * L), 0u);
  picture.probability.assign(static_cast<size_t>(heads * L * L), 0.0f);
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t kv_head = h / (heads / a.k_heads);
    for (int64_t i = 0; i < L; ++i) {
      uint32_t* row = picture.patterns.data() + (h * L + i) * L;
      const auto mark = [&](int64_t j, uint32_t pattern, bool chosen) {
        if (chosen && (a.keys.patterns & pattern) != 0) row[j] |= pattern;
      };
      for (int64_t j = 0; j <= i; ++j) {
        mark(j, HAX_PATTERN_FULL, true);
        mark(j, HAX_PATTERN_SLIDING_WINDOW, i - j < a.keys.window);
        mark(j, HAX_PATTERN_SINK, j < a.keys.sink);
        mark(j, HAX_PATTERN_DILATED,
             a.keys.dilation > 0 && j % a.keys.dilation == a.keys.dilation - 1);
        mark(j, HAX_PATTERN_KEY_SELECTION,
             !eviction.empty() && i < eviction[static_cast<size_t>(kv_head * L + j)]);
      }
      for (int32_t p = begin.empty() ? 0 : begin[static_cast<size_t>(h * L + i)];
           p < (end.empty() ? 0 : end[static_cast<size_t>(h * L + i)]); ++p) {
        mark(key_order[static_cast<size_t>(kv_head * L + p)], HAX_PATTERN_LSH, true);
      }
      for (int64_t j = 0; j <= i; ++j) {
        if (row[j] == 0) continue;
        const float* query = q.data() + (i * heads + h) * width;
        const float* key = k.data() + (j * a.k_heads + kv_head) * width;
        double score = 0.0;
        for (int64_t n = 0; n < width; ++n) score += double{query[n]} * double{key[n]};
        picture.probability[static_cast<size_t>((h * L + i) * L + j)] = static_cast<float>(
            std::exp(double{a.scale} * score - double{lse[static_cast<size_t>(h * L + i)]}));
      }
    }
  }
  return picture;
}

}  // namespace joint_recall
