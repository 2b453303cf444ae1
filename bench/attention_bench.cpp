// sparse_attention on CPU tensors. Counters: tokens (of all sequences) a second, pairs of query and key a
// second, and the workspace of the call in MiB. The linear cases measure what the HAX pattern costs as one
// sequence grows: time per token of the longest over that of the shortest is the figure to watch.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <queue>
#include <random>
#include <vector>

#include "hax/hax.h"

namespace {

// A compact tensor that owns its memory.
class Buffer {
 public:
  Buffer(std::vector<int64_t> shape, hax_data_type type) : shape_(std::move(shape)) {
    const int64_t count =
        std::accumulate(shape_.begin(), shape_.end(), int64_t{1}, std::multiplies<>());
    bytes_.resize(static_cast<size_t>(count * type.bits / 8));
    tensor_ = {bytes_.data(),
               {HAX_DEVICE_CPU, 0},
               static_cast<int32_t>(shape_.size()),
               type,
               shape_.data(),
               nullptr,
               0};
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void fill_normal(unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    const bool wide = tensor_.dtype.bits == 32;
    for (size_t i = 0; i < bytes_.size() / (wide ? 4 : 2); ++i) {
      const float value = normal(engine);
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      const uint16_t high = static_cast<uint16_t>(bits >> 16);  // bf16 by truncation
      wide ? std::memcpy(&bytes_[4 * i], &bits, 4) : std::memcpy(&bytes_[2 * i], &high, 2);
    }
  }

  int32_t* integers() { return reinterpret_cast<int32_t*>(bytes_.data()); }
  const hax_tensor* arg() const { return &tensor_; }

 private:
  std::vector<int64_t> shape_;
  std::vector<char> bytes_;
  hax_tensor tensor_;
};

struct Shape {
  int64_t batch, length, heads, d_qk, d_v;
};

// Index tensors as hashing random vectors and scoring keys at random would give them, and what is asked
// for beside them. Also counts the pairs of query and key that LSH and key selection select, those that
// both select twice.
struct Indices {
  Indices(const Shape& s, int budget)
      : key_order({s.batch, s.heads, s.length}, HAX_INT32),
        begin({s.batch, s.heads, s.length}, HAX_INT32),
        end({s.batch, s.heads, s.length}, HAX_INT32),
        eviction({s.batch, s.heads, s.length}, HAX_INT32) {
    std::mt19937 engine(7);
    for (int64_t head = 0; head < s.batch * s.heads; ++head) {
      make_lsh(engine, head * s.length, s.length, budget);
      make_eviction(engine, head * s.length, s.length, budget);
    }
  }

  void make_lsh(std::mt19937& engine, int64_t offset, int64_t length, int budget) {
    const size_t codes = length > 4096 ? 256 : 16;
    std::vector<std::vector<int32_t>> queries(codes), keys(codes);
    for (int32_t t = 0; t < length; ++t) {
      queries[engine() % codes].push_back(t);
      keys[engine() % codes].push_back(t);
    }
    int32_t first = 0;
    for (size_t code = 0; code < codes; ++code) {
      std::copy(keys[code].begin(), keys[code].end(), key_order.integers() + offset + first);
      for (const int32_t t : queries[code]) {
        const auto past =
            std::upper_bound(keys[code].begin(), keys[code].end(), t) - keys[code].begin();
        end.integers()[offset + t] = first + static_cast<int32_t>(past);
        begin.integers()[offset + t] =
            first + static_cast<int32_t>(std::max<int64_t>(past - budget, 0));
        pairs += std::min<int64_t>(past, budget);
      }
      first += static_cast<int32_t>(keys[code].size());
    }
  }

  void make_eviction(std::mt19937& engine, int64_t offset, int64_t length, int budget) {
    using Entry = std::pair<uint32_t, int32_t>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> best;
    int32_t* const evicted = eviction.integers() + offset;
    for (int32_t t = 0; t < length; ++t) {
      best.push({engine(), t});
      evicted[t] = static_cast<int32_t>(length);
      if (best.size() > static_cast<size_t>(budget)) {
        evicted[best.top().second] = t;
        best.pop();
      }
      pairs += static_cast<int64_t>(best.size());
    }
  }

  Buffer key_order, begin, end, eviction;
  int64_t pairs = 0;
};

struct Run {
  Run(const Shape& shape, uint32_t bits, int budget, hax_data_type type)
      : s(shape),
        q({s.batch, s.length, s.heads, s.d_qk}, type),
        k({s.batch, s.length, s.heads, s.d_qk}, type),
        v({s.batch, s.length, s.heads, s.d_v}, type),
        o({s.batch, s.length, s.heads, s.d_v}, type),
        d_o({s.batch, s.length, s.heads, s.d_v}, type),
        dq({s.batch, s.length, s.heads, s.d_qk}, type),
        dk({s.batch, s.length, s.heads, s.d_qk}, type),
        dv({s.batch, s.length, s.heads, s.d_v}, type),
        lse({s.batch, s.heads, s.length}, HAX_FP32),
        indices(shape, budget) {
    unsigned seed = 0;
    for (Buffer* buffer : {&q, &k, &v, &d_o}) buffer->fill_normal(++seed);
    pattern.struct_size = sizeof(pattern);
    pattern.patterns = bits;
    if (bits & HAX_PATTERN_SLIDING_WINDOW) pattern.window = budget;
    if (bits & HAX_PATTERN_SINK) pattern.sink = budget;
    if (bits & HAX_PATTERN_DILATED) {
      pattern.dilation = static_cast<int32_t>(std::max<int64_t>(s.length / budget, 1));
    }
    if (bits & HAX_PATTERN_LSH) {
      pattern.key_order = indices.key_order.arg();
      pattern.begin = indices.begin.arg();
      pattern.end = indices.end.arg();
    }
    if (bits & HAX_PATTERN_KEY_SELECTION) pattern.eviction = indices.eviction.arg();
    const float scale = 0.125f;
    forward = {sizeof(forward), q.arg(),   k.arg(),  v.arg(), nullptr,
               o.arg(),         lse.arg(), &pattern, scale};
    backward = {sizeof(backward), q.arg(),   k.arg(),   v.arg(), nullptr,
                o.arg(),          lse.arg(), d_o.arg(), nullptr, dq.arg(),
                dk.arg(),         dv.arg(),  &pattern,  scale,   1};
    check(hax_context_create(nullptr, &context));
    check(hax_sparse_attention_forward_workspace(context, &forward, &forward_bytes));
    check(hax_sparse_attention_backward_workspace(context, &backward, &backward_bytes));
    workspace.reset(
        std::aligned_alloc(256, (std::max(forward_bytes, backward_bytes) + 255) / 256 * 256));
  }
  ~Run() { hax_context_destroy(context); }

  static void check(hax_status status) {
    if (status == HAX_SUCCESS) return;
    std::fprintf(stderr, "%s\n", hax_last_error());
    std::abort();
  }
  void run_forward() {
    check(hax_sparse_attention_forward(context, &forward, workspace.get(), forward_bytes, nullptr));
  }
  void run_backward() {
    check(hax_sparse_attention_backward(context, &backward, workspace.get(), backward_bytes,
                                        nullptr));
  }

  Shape s;
  Buffer q, k, v, o, d_o, dq, dk, dv, lse;
  Indices indices;
  hax_sparse_pattern pattern = {};
  hax_sparse_attention_forward_args forward;
  hax_sparse_attention_backward_args backward;
  hax_context* context = nullptr;
  size_t forward_bytes = 0, backward_bytes = 0;
  std::unique_ptr<void, decltype(&std::free)> workspace{nullptr, std::free};
};

enum Pass { kForward, kBackward, kBoth };

void measure(benchmark::State& state, Pass pass, Shape shape, uint32_t bits, int budget,
             hax_data_type type) {
  Run run(shape, bits, budget, type);
  run.run_forward();
  if (pass != kForward) run.run_backward();
  for (auto _ : state) {
    if (pass != kBackward) run.run_forward();
    if (pass != kForward) run.run_backward();
  }
  const double tokens = static_cast<double>(shape.batch * shape.length);
  state.counters["ns_per_token"] = benchmark::Counter(
      1e-9 * tokens, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  const size_t bytes = pass == kForward    ? run.forward_bytes
                       : pass == kBackward ? run.backward_bytes
                                           : std::max(run.forward_bytes, run.backward_bytes);
  state.counters["workspace_MiB"] = static_cast<double>(bytes) / (1 << 20);
  if (bits == (HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION)) {
    state.counters["pairs"] = benchmark::Counter(static_cast<double>(run.indices.pairs),
                                                 benchmark::Counter::kIsIterationInvariantRate);
  }
}

constexpr uint32_t kHax = HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION;
constexpr Shape kStep = {64, 74, 1, 32, 128};  // one layer of a small joint-recall model

constexpr Shape kLong = {1, 131072, 8, 64, 128};
constexpr Shape kEighth = {1, 16384, 8, 64, 128};

void add(const char* name, Pass pass, const Shape& shape, uint32_t bits, int budget,
         hax_data_type type = HAX_FP32) {
  benchmark::RegisterBenchmark(name, measure, pass, shape, bits, budget, type)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

const bool registered = [] {
  add("attention/step/hax/forward", kForward, kStep, kHax, 32);
  add("attention/step/hax/backward", kBackward, kStep, kHax, 32);
  add("attention/step/hax/both", kBoth, kStep, kHax, 32);
  add("attention/step/hax_bf16/both", kBoth, kStep, kHax, 32, HAX_BF16);
  add("attention/step/full/both", kBoth, kStep, HAX_PATTERN_FULL, 64);
  add("attention/step/window_dilated/both", kBoth, kStep,
      HAX_PATTERN_SLIDING_WINDOW | HAX_PATTERN_DILATED, 32);
  add("attention/samba/window/both", kBoth, {64, 74, 4, 8, 8}, HAX_PATTERN_SLIDING_WINDOW, 64);
  add("attention/full/L2048/both", kBoth, {1, 2048, 4, 64, 128}, HAX_PATTERN_FULL, 64);
  add("attention/linear/L16384/forward", kForward, kEighth, kHax, 32);
  add("attention/linear/L131072/forward", kForward, kLong, kHax, 32);
  add("attention/linear/L16384/both", kBoth, kEighth, kHax, 32);
  add("attention/linear/L131072/both", kBoth, kLong, kHax, 32);
  add("attention/linear_bf16/L131072/both", kBoth, kLong, kHax, 32, HAX_BF16);
  return true;
}();

}  // namespace
