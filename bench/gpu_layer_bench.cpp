// A HAX layer's attention in one call on a GPU, bf16 activations.
#ifdef HAX_WITH_CUDA
#include <cmath>

#include "gpu_bench.hpp"

namespace gpu_bench {
namespace {

constexpr hax_data_type kT = HAX_BF16;
constexpr hax_data_type kFp32 = HAX_FP32;
constexpr hax_data_type kInt32 = HAX_INT32;
constexpr int32_t kBudget = 32;
using Args = hax_layer_attention_forward_args;

// One row of tokens that cu_seqlens cuts into sequences of `length`, or, not packed, a row for each.
struct Shape {
  int64_t sequences, length, heads, features, d_v, bits;
  bool packed;

  int64_t batch() const { return packed ? 1 : sequences; }
  int64_t row() const { return packed ? sequences * length : length; }
};

class LayerCall : public CallOf<Args> {
 public:
  explicit LayerCall(const Shape& s)
      : CallOf<Args>(hax_layer_attention_forward_workspace, hax_layer_attention_forward) {
    const int64_t width = 2 * s.features;
    const double bound = 1.0 / std::sqrt(static_cast<double>(width));
    tensor(&Args::q, {s.batch(), s.row(), s.heads, s.features}, kT);
    tensor(&Args::k, {s.batch(), s.row(), s.heads, s.features}, kT);
    tensor(&Args::v, {s.batch(), s.row(), s.heads, s.d_v}, kT);
    tensor(&Args::R, {s.features, s.bits}, kFp32);
    tensor(&Args::W1, {width, width}, kFp32, -bound, bound);
    tensor(&Args::b1, {width}, kFp32, -bound, bound);
    tensor(&Args::W2, {width, width}, kFp32, -bound, bound);
    tensor(&Args::b2, {width}, kFp32, -bound, bound);
    tensor(&Args::W3, {1, width}, kFp32, -bound, bound);
    tensor(&Args::b3, {1}, kFp32, -bound, bound);
    tensor(&Args::o, {s.batch(), s.row(), s.heads, s.d_v}, kT);
    const std::vector<int64_t> tokens = {s.batch(), s.heads, s.row()};
    tensor(&Args::lse, tokens, kFp32);
    tensor(&Args::key_order, tokens, kInt32);
    tensor(&Args::begin, tokens, kInt32);
    tensor(&Args::end, tokens, kInt32);
    tensor(&Args::score, tokens, kFp32);
    tensor(&Args::eviction, tokens, kInt32);
    if (s.packed) {
      tensor(&Args::cu_seqlens, {s.sequences + 1}, kInt32);
      std::vector<int32_t> begins;
      for (int64_t i = 0; i <= s.sequences; ++i) {
        begins.push_back(static_cast<int32_t>(i * s.length));
      }
      require(cudaMemcpy(args.cu_seqlens->data, begins.data(), begins.size() * sizeof(int32_t),
                         cudaMemcpyHostToDevice),
              "upload");
    }
    args.patterns = HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION;
    args.lsh_budget = args.selection_budget = kBudget;
    args.statistics = HAX_LSH_STATISTICS_SEQUENCE;
    args.normalization = HAX_KEY_SCORE_NORM_FEATURE;
    args.scale = 1.0f / std::sqrt(static_cast<float>(s.features));
  }
};

void add_layer(const Shape& s) {
  const double tokens = static_cast<double>(s.sequences * s.length * s.heads);
  const double width = 2.0 * static_cast<double>(s.features);
  const double pairs = 2.0 * kBudget * tokens;
  const double flops =
      2.0 * pairs * static_cast<double>(s.features + s.d_v) + 4.0 * tokens * width * width;
  add(
      "cuda/layer_attention_forward/" + std::string(s.packed ? "S" : "B") +
          std::to_string(s.sequences) + "_L" + std::to_string(s.length) + "_H" +
          std::to_string(s.heads) + "_N" + std::to_string(s.features) + "_Dv" +
          std::to_string(s.d_v) + "_bits" + std::to_string(s.bits),
      [=] { return std::make_unique<LayerCall>(s); }, pairs, flops);
}

const bool registered = [] {
  add_layer({64, 1057, 1, 32, 128, 8, false});
  add_layer({64, 470, 1, 32, 128, 8, true});
  add_layer({1, 131072, 16, 64, 128, 8, false});
  return true;
}();

}  // namespace
}  // namespace gpu_bench
#endif
