// sparse_attention on a GPU, bf16 activations.
#ifdef HAX_WITH_CUDA
#include <algorithm>
#include <map>
#include <queue>
#include <random>

#include "gpu_bench.hpp"

namespace gpu_bench {
namespace {

constexpr hax_data_type kT = HAX_BF16;

// Keys are scored at random, or ever better: then each one enters and stays for `budget` tokens.
enum class Scores { random, rising };

struct Shape {
  int64_t batch, length, heads, d_qk, d_v;
  uint32_t patterns;
  int32_t budget;  // of each pattern
  uint64_t codes = 1;
  Scores scores = Scores::random;

  bool has(uint32_t bit) const { return (patterns & bit) != 0; }
  int64_t rows() const { return batch * heads; }
};

std::string describe(const Shape& s) {
  std::string text;
  for (const auto& [bit, name] : {std::pair{HAX_PATTERN_FULL, "full"},
                                  {HAX_PATTERN_SLIDING_WINDOW, "window"},
                                  {HAX_PATTERN_LSH, "lsh"},
                                  {HAX_PATTERN_KEY_SELECTION, "select"}}) {
    if (s.has(bit)) text += (text.empty() ? "/" : "+") + std::string(name);
  }
  if (s.patterns != HAX_PATTERN_FULL) text += std::to_string(s.budget);
  if (s.scores == Scores::rising) text += "_rising";
  return text + "/B" + std::to_string(s.batch) + "_L" + std::to_string(s.length) + "_H" +
         std::to_string(s.heads) + "_Dqk" + std::to_string(s.d_qk) + "_Dv" + std::to_string(s.d_v);
}

// Index tensors of one head as bucketing and selection make them.
struct Head {
  std::vector<int32_t> key_order, begin, end, eviction;

  Head(const Shape& s, std::mt19937_64& engine)
      : begin(static_cast<size_t>(s.length)), end(begin), eviction(begin) {
    std::vector<std::vector<int32_t>> keys(s.codes);
    for (int32_t t = 0; t < s.length; ++t) keys[engine() % s.codes].push_back(t);
    std::vector<int32_t> first;
    for (const auto& bucket : keys) {
      first.push_back(static_cast<int32_t>(key_order.size()));
      key_order.insert(key_order.end(), bucket.begin(), bucket.end());
    }
    using Entry = std::pair<uint64_t, int32_t>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> best;
    for (int32_t t = 0; t < s.length; ++t) {
      const auto i = static_cast<size_t>(t);
      const size_t code = engine() % s.codes;
      const auto& bucket = keys[code];
      const auto past =
          static_cast<int32_t>(std::upper_bound(bucket.begin(), bucket.end(), t) - bucket.begin());
      end[i] = first[code] + past;
      begin[i] = end[i] - std::min(past, s.budget);
      best.push({s.scores == Scores::random ? engine() : i, t});
      eviction[i] = static_cast<int32_t>(s.length);
      if (best.size() <= static_cast<size_t>(s.budget)) continue;
      eviction[static_cast<size_t>(best.top().second)] = t;
      best.pop();
    }
  }
};

// The index tensors of a shape, made once.
struct Indices {
  std::unique_ptr<Tensor> key_order, begin, end, eviction;

  explicit Indices(const Shape& s) {
    const std::vector<int64_t> shape = {s.batch, s.heads, s.length};
    for (auto* tensor : {&key_order, &begin, &end, &eviction}) {
      *tensor = std::make_unique<Tensor>(shape, hax_data_type HAX_INT32);
    }
    std::mt19937_64 engine(1);
    for (int64_t row = 0; row < s.rows(); ++row) {
      const Head head(s, engine);
      upload(*key_order, row, head.key_order);
      upload(*begin, row, head.begin);
      upload(*end, row, head.end);
      upload(*eviction, row, head.eviction);
    }
  }

  static void upload(const Tensor& to, int64_t row, const std::vector<int32_t>& values) {
    const size_t bytes = values.size() * sizeof(int32_t);
    require(cudaMemcpy(static_cast<char*>(to.arg()->data) + static_cast<size_t>(row) * bytes,
                       values.data(), bytes, cudaMemcpyHostToDevice),
            "upload");
  }
};

template <class Args>
class AttentionCall : public CallOf<Args> {
 public:
  using CallOf<Args>::CallOf;

  void prepare_problem(const Shape& s, const std::shared_ptr<Indices>& indices) {
    this->tensor(&Args::q, {s.batch, s.length, s.heads, s.d_qk}, kT);
    this->tensor(&Args::k, {s.batch, s.length, s.heads, s.d_qk}, kT);
    this->tensor(&Args::v, {s.batch, s.length, s.heads, s.d_v}, kT);
    this->tensor(&Args::o, {s.batch, s.length, s.heads, s.d_v}, kT);
    this->tensor(&Args::lse, {s.batch, s.heads, s.length}, HAX_FP32);
    indices_ = indices;
    pattern_.struct_size = sizeof(pattern_);
    pattern_.patterns = s.patterns;
    const auto use = [&](const Tensor& tensor) {
      this->bytes_ += tensor.bytes();
      return tensor.arg();
    };
    if (s.has(HAX_PATTERN_SLIDING_WINDOW)) pattern_.window = s.budget;
    if (s.has(HAX_PATTERN_LSH)) {
      pattern_.key_order = use(*indices->key_order);
      pattern_.begin = use(*indices->begin);
      pattern_.end = use(*indices->end);
    }
    if (s.has(HAX_PATTERN_KEY_SELECTION)) pattern_.eviction = use(*indices->eviction);
    this->args.pattern = &pattern_;
    this->args.scale = 0.125f;
  }

 private:
  std::shared_ptr<Indices> indices_;
  hax_sparse_pattern pattern_ = {};
};

// Pairs of a query and a key that the patterns select, those of two patterns twice.
double pairs_of(const Shape& s) {
  const double queries = static_cast<double>(s.rows() * s.length);
  if (s.has(HAX_PATTERN_FULL)) return queries * static_cast<double>(s.length) / 2;
  return queries * s.budget * __builtin_popcount(s.patterns);
}

void add_shape(const Shape& s) {
  // Index tensors are shared by the sets of a case and live as long as its calls.
  const auto indices = [s, made = std::make_shared<std::weak_ptr<Indices>>()] {
    auto shared = made->lock();
    if (!shared) *made = shared = std::make_shared<Indices>(s);
    return shared;
  };
  const double pairs = pairs_of(s);
  const double flops = 2.0 * pairs * static_cast<double>(s.d_qk + s.d_v);
  add(
      "cuda/sparse_attention_forward" + describe(s),
      [=] {
        using Args = hax_sparse_attention_forward_args;
        auto call = std::make_unique<AttentionCall<Args>>(hax_sparse_attention_forward_workspace,
                                                          hax_sparse_attention_forward);
        call->prepare_problem(s, indices());
        return call;
      },
      pairs, flops);
  add(
      "cuda/sparse_attention_backward" + describe(s),
      [=] {
        using Args = hax_sparse_attention_backward_args;
        auto call = std::make_unique<AttentionCall<Args>>(hax_sparse_attention_backward_workspace,
                                                          hax_sparse_attention_backward);
        call->prepare_problem(s, indices());
        call->tensor(&Args::d_o, {s.batch, s.length, s.heads, s.d_v}, kT);
        call->tensor(&Args::dq, {s.batch, s.length, s.heads, s.d_qk}, kT);
        call->tensor(&Args::dk, {s.batch, s.length, s.heads, s.d_qk}, kT);
        call->tensor(&Args::dv, {s.batch, s.length, s.heads, s.d_v}, kT);
        return call;
      },
      pairs, 2.5 * flops);
}

constexpr uint32_t kHax = HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION;
constexpr uint32_t kWindow = HAX_PATTERN_SLIDING_WINDOW;

const bool registered = [] {
  add_shape({64, 1057, 1, 32, 128, kHax, 32, 16});
  add_shape({1, 131072, 16, 64, 128, kHax, 32, 256});
  add_shape({1, 131072, 16, 64, 128, kHax, 32, 256, Scores::rising});
  add_shape({1, 131072, 16, 64, 128, HAX_PATTERN_LSH, 32, 256});
  add_shape({1, 131072, 16, 64, 128, HAX_PATTERN_KEY_SELECTION, 32});
  add_shape({1, 131072, 8, 64, 128, kHax, 32, 256});
  add_shape({1, 1048576, 8, 64, 128, kHax, 32, 2048});
  add_shape({1, 8192, 16, 128, 128, kWindow, 64});
  add_shape({1, 131072, 16, 128, 128, kWindow, 64});
  add_shape({1, 8192, 16, 128, 128, HAX_PATTERN_FULL, 0});
  return true;
}();

}  // namespace
}  // namespace gpu_bench
#endif
