// Hashing and key selection on a GPU, bf16 activations.
#ifdef HAX_WITH_CUDA
#include <random>

#include "gpu_bench.hpp"

namespace gpu_bench {
namespace {

constexpr hax_data_type kT = HAX_BF16;
constexpr hax_data_type kFp32 = HAX_FP32;

// batch: of equal rows, or, packed, of the sequences in one row.
struct Shape {
  int64_t batch, length, heads, features;
  bool packed = false;

  int64_t rows() const { return packed ? 1 : batch; }
};

std::string describe(const Shape& s) {
  return (s.packed ? "/packed" : "/B") + std::to_string(s.batch) + "_L" + std::to_string(s.length) +
         "_H" + std::to_string(s.heads) + "_N" + std::to_string(s.features);
}

// Items of the joint-recall data set in a row: 64 of up to 1057 tokens, 473 on average.
constexpr int64_t kItems = 64, kLongestItem = 1057;
std::vector<int64_t> item_boundaries() {
  std::vector<int64_t> at = {0, kLongestItem};
  for (int64_t i = 1; i < kItems; ++i) at.push_back(at.back() + 16 + 14 * i);
  return at;
}

template <class Args>
void add_boundaries(CallOf<Args>& call, const Shape& s) {
  if (!s.packed) return;
  const std::vector<int64_t> at = item_boundaries();
  call.tensor(&Args::cu_seqlens, {kItems + 1}, HAX_INT64);
  call.args.max_seqlen = kLongestItem;
  require(cudaMemcpy(call.args.cu_seqlens->data, at.data(), at.size() * sizeof(int64_t),
                     cudaMemcpyHostToDevice),
          "upload");
}

void add_hash(const Shape& s, int64_t bits, int32_t statistics) {
  const char* const names[] = {"none", "sequence", "causal"};
  add("cuda/lsh_hash_forward" + describe(s) + "_bits" + std::to_string(bits) + "_" +
          names[statistics],
      [=] {
        using Args = hax_lsh_hash_forward_args;
        auto call =
            std::make_unique<CallOf<Args>>(hax_lsh_hash_forward_workspace, hax_lsh_hash_forward);
        call->tensor(&Args::x, {s.rows(), s.length, s.heads, s.features}, kT);
        call->tensor(&Args::R, {s.features, bits}, kFp32);
        call->tensor(&Args::code, {s.rows(), s.heads, s.length}, HAX_INT64);
        call->args.statistics = statistics;
        add_boundaries(*call, s);
        return call;
      });
}

void add_bucket(const Shape& s, int32_t bits) {
  add("cuda/lsh_bucket_forward" + describe(s) + "_bits" + std::to_string(bits), [=] {
    using Args = hax_lsh_bucket_forward_args;
    auto call =
        std::make_unique<CallOf<Args>>(hax_lsh_bucket_forward_workspace, hax_lsh_bucket_forward);
    const std::vector<int64_t> shape = {s.rows(), s.heads, s.length};
    call->tensor(&Args::code_q, shape, HAX_INT64);
    call->tensor(&Args::code_k, shape, HAX_INT64);
    std::mt19937_64 engine(1);
    std::vector<int64_t> codes(static_cast<size_t>(s.rows() * s.heads * s.length));
    for (const hax_tensor* tensor : {call->args.code_q, call->args.code_k}) {
      for (int64_t& code : codes) code = static_cast<int64_t>(engine() >> (64 - bits));
      require(cudaMemcpy(tensor->data, codes.data(), codes.size() * sizeof(int64_t),
                         cudaMemcpyHostToDevice),
              "upload");
    }
    call->tensor(&Args::key_order, shape, HAX_INT32);
    call->tensor(&Args::begin, shape, HAX_INT32);
    call->tensor(&Args::end, shape, HAX_INT32);
    call->args.num_bits = bits;
    call->args.budget = 32;
    add_boundaries(*call, s);
    return call;
  });
}

void add_select(const Shape& s, int32_t budget, const std::string& order) {
  add("cuda/key_select_forward" + describe(s) + "_k" + std::to_string(budget) + "_" + order, [=] {
    using Args = hax_key_select_forward_args;
    auto call =
        std::make_unique<CallOf<Args>>(hax_key_select_forward_workspace, hax_key_select_forward);
    const std::vector<int64_t> shape = {s.rows(), s.heads, s.length};
    call->tensor(&Args::score, shape, kFp32);
    call->tensor(&Args::eviction, shape, HAX_INT32);
    call->args.budget = budget;
    add_boundaries(*call, s);
    if (order == "random") return call;
    std::vector<float> row(static_cast<size_t>(s.length));
    for (int64_t t = 0; t < s.length; ++t) {
      const auto up = static_cast<float>(t);
      row[static_cast<size_t>(t)] = order == "up"         ? up
                                    : order == "down"     ? -up
                                    : order == "constant" ? 1.0f
                                    : order == "nan"      ? __builtin_nanf("")
                                                          : static_cast<float>(t % 257);
    }
    for (int64_t r = 0; r < s.rows() * s.heads; ++r) {
      require(cudaMemcpy(static_cast<float*>(call->args.score->data) + r * s.length, row.data(),
                         row.size() * sizeof(float), cudaMemcpyHostToDevice),
              "upload");
    }
    return call;
  });
}

template <class Args>
void add_score_inputs(CallOf<Args>& call, const Shape& s) {
  const int64_t width = 2 * s.features;
  call.tensor(&Args::q, {s.rows(), s.length, s.heads, s.features}, kT);
  call.tensor(&Args::k, {s.rows(), s.length, s.heads, s.features}, kT);
  call.tensor(&Args::W1, {width, width}, kT);
  call.tensor(&Args::b1, {width}, kFp32);
  call.tensor(&Args::W2, {width, width}, kT);
  call.tensor(&Args::b2, {width}, kFp32);
  call.tensor(&Args::W3, {1, width}, kT);
  call.tensor(&Args::b3, {1}, kFp32);
  call.args.k_scale = 0.125f;
  add_boundaries(call, s);
}

void add_score(const Shape& s, int32_t normalization) {
  const std::string name = describe(s) + (normalization ? "_sequence" : "_feature");
  add("cuda/key_score_forward" + name, [=] {
    using Args = hax_key_score_forward_args;
    auto call =
        std::make_unique<CallOf<Args>>(hax_key_score_forward_workspace, hax_key_score_forward);
    add_score_inputs(*call, s);
    call->tensor(&Args::score, {s.rows(), s.heads, s.length}, kFp32);
    call->args.normalization = normalization;
    return call;
  });
  add("cuda/key_score_backward" + name, [=] {
    using Args = hax_key_score_backward_args;
    const int64_t width = 2 * s.features;
    auto call =
        std::make_unique<CallOf<Args>>(hax_key_score_backward_workspace, hax_key_score_backward);
    add_score_inputs(*call, s);
    call->tensor(&Args::dscore, {s.rows(), s.heads, s.length}, kFp32);
    // As the ranking loss leaves it: 32 tokens of an item or of a thousand.
    std::vector<float> dscore(static_cast<size_t>(s.rows() * s.heads * s.length));
    const size_t every = s.packed ? 15 : 33;
    for (size_t i = 0; i < dscore.size(); i += every) dscore[i] = 1.0f;
    require(cudaMemcpy(call->args.dscore->data, dscore.data(), dscore.size() * sizeof(float),
                       cudaMemcpyHostToDevice),
            "upload");
    call->tensor(&Args::dW1, {width, width}, kFp32);
    call->tensor(&Args::db1, {width}, kFp32);
    call->tensor(&Args::dW2, {width, width}, kFp32);
    call->tensor(&Args::db2, {width}, kFp32);
    call->tensor(&Args::dW3, {1, width}, kFp32);
    call->tensor(&Args::db3, {1}, kFp32);
    call->args.normalization = normalization;
    return call;
  });
}

const bool registered = [] {
  const Shape recall{64, 1057, 1, 32}, wide{1, 131072, 8, 64};
  const Shape items{kItems, item_boundaries().back(), 1, 32, true};
  for (const int64_t bits : {8, 16}) add_hash(wide, bits, HAX_LSH_STATISTICS_NONE);
  add_hash(wide, 16, HAX_LSH_STATISTICS_SEQUENCE);
  add_hash(wide, 16, HAX_LSH_STATISTICS_CAUSAL);
  for (const Shape& s : {recall, items}) add_hash(s, 8, HAX_LSH_STATISTICS_SEQUENCE);
  for (const int32_t bits : {8, 12, 16, 40}) add_bucket(wide, bits);
  for (const Shape& s : {recall, items}) add_bucket(s, 8);
  add_select(recall, 32, "random");
  add_select(recall, 32, "up");
  add_select(items, 32, "random");
  for (const char* order : {"random", "up", "down", "constant", "sawtooth", "nan"}) {
    add_select({64, 131072, 1, 1}, 64, order);
  }
  add_select({8, 131072, 1, 1}, 64, "random");
  add_select({8, 131072, 1, 1}, 4096, "random");
  for (const int32_t normalization : {HAX_KEY_SCORE_NORM_FEATURE, HAX_KEY_SCORE_NORM_SEQUENCE}) {
    add_score(recall, normalization);
    add_score(items, normalization);
    add_score(wide, normalization);
  }
  return true;
}();

}  // namespace
}  // namespace gpu_bench
#endif
