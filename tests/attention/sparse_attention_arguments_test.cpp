// What sparse_attention refuses, with which status and which words.
#include <cstring>
#include <functional>
#include <limits>

#include "attention/sparse_attention_case.hpp"

namespace hax_test {
namespace {

using ::testing::AssertionFailure;
using ::testing::AssertionResult;
using ::testing::AssertionSuccess;

const AttentionCase kCase{.batch = 2, .length = 6, .patterns = 63};

// Sound arguments of forward and backward, to be spoilt one at a time.
struct Call {
  AttentionData data{kCase};
  PatternArguments pattern{kCase, data};
  Argument q = Argument::input(data.oracle.q), k = Argument::input(data.oracle.k);
  Argument v = Argument::input(data.oracle.v), d_o = Argument::input(data.d_o);
  Argument o = Argument::output(kCase.o_shape()), lse = Argument::output(kCase.lse_shape());
  Argument dq = Argument::output(kCase.q_shape()), dk = Argument::output(kCase.k_shape());
  Argument dv = Argument::output(kCase.v_shape());
  hax_sparse_attention_forward_args forward = {};
  hax_sparse_attention_backward_args backward = {};

  Call() {
    forward = {sizeof(forward), q.arg(),   k.arg(),          v.arg(), nullptr,
               o.arg(),         lse.arg(), &pattern.pattern, 1.0f,    0};
    backward = {sizeof(backward), q.arg(),   k.arg(), v.arg(),  nullptr,  o.arg(),
                lse.arg(),        d_o.arg(), nullptr, dq.arg(), dk.arg(), dv.arg(),
                &pattern.pattern, 1.0f,      0,       0};
  }
};

// A workspace for CPU tensors, which these tests use wherever the others run.
class HostScratch {
 public:
  explicit HostScratch(size_t bytes) : lines_(bytes / sizeof(Line) + 1), bytes_(bytes) {}
  void* data() { return lines_.data(); }
  size_t size() const { return bytes_; }

 private:
  struct alignas(64) Line {
    unsigned char bytes[64];
  };
  std::vector<Line> lines_;
  size_t bytes_;
};

AssertionResult refused(hax_status status, hax_status want, const std::string& function,
                        const std::string& words) {
  const std::string text = hax_last_error();
  if (status != want) {
    return AssertionFailure() << hax_status_name(status) << ", want " << hax_status_name(want)
                              << " with " << words;
  }
  if (text.rfind(function + ": ", 0) == 0 && text.find(words) != std::string::npos) {
    return AssertionSuccess();
  }
  return AssertionFailure() << "error text is \"" << text << "\", want \"" << words << "\" in it";
}

// Both functions must refuse, and (unless only content is at fault) both workspace queries likewise.
void expect_refused(const std::function<void(Call&)>& spoil, hax_status want,
                    const std::string& words, bool content_only = false) {
  SCOPED_TRACE(words);
  const TestContext context(2);
  Call call;
  spoil(call);
  size_t bytes = 0;
  const std::string forward = "hax_sparse_attention_forward";
  const std::string backward = "hax_sparse_attention_backward";
  const hax_status query_forward =
      hax_sparse_attention_forward_workspace(context, &call.forward, &bytes);
  if (content_only) {
    EXPECT_EQ(query_forward, HAX_SUCCESS) << hax_last_error();
  } else {
    EXPECT_TRUE(refused(query_forward, want, forward, words));
  }
  HostScratch scratch(std::max<size_t>(bytes, 1 << 20));
  EXPECT_TRUE(refused(
      hax_sparse_attention_forward(context, &call.forward, scratch.data(), scratch.size(), nullptr),
      want, forward, words));
  EXPECT_TRUE(call.o.untouched() && call.lse.untouched());
  if (!content_only) {
    EXPECT_TRUE(refused(hax_sparse_attention_backward_workspace(context, &call.backward, &bytes),
                        want, backward, words));
  }
  EXPECT_TRUE(refused(hax_sparse_attention_backward(context, &call.backward, scratch.data(),
                                                    scratch.size(), nullptr),
                      want, backward, words));
  EXPECT_TRUE(call.dq.untouched() && call.dk.untouched() && call.dv.untouched());
}

constexpr hax_status kInvalid = HAX_ERROR_INVALID_ARGUMENT;
constexpr hax_status kUnsupported = HAX_ERROR_UNSUPPORTED;

TEST(SparseAttentionArguments, Pattern) {
  const auto spoil = [](auto change, hax_status status, const std::string& words) {
    expect_refused([&](Call& c) { change(c.pattern.pattern); }, status, words);
  };
  using P = hax_sparse_pattern;
  spoil([](P& p) { p.struct_size = 8; }, kInvalid,
        "pattern->struct_size: expected at least 56, got 8");
  spoil([](P& p) { p.patterns = 0; }, kInvalid, "patterns: expected at least one");
  spoil([](P& p) { p.patterns = 64; }, kUnsupported, "patterns: expected bits of 63, got 64");
  spoil([](P& p) { p.window = 0; }, kInvalid, "window: expected at least 1");
  spoil([](P& p) { p.sink = -1; }, kInvalid, "sink: expected at least 1");
  spoil([](P& p) { p.dilation = 0; }, kInvalid, "dilation: expected at least 1");
  spoil([](P& p) { p.patterns &= ~HAX_PATTERN_SLIDING_WINDOW; }, kInvalid,
        "window: expected 0 without HAX_PATTERN_SLIDING_WINDOW, got 5");
  spoil([](P& p) { p.patterns &= ~HAX_PATTERN_SINK; }, kInvalid,
        "sink: expected 0 without HAX_PATTERN_SINK, got 3");
  spoil([](P& p) { p.patterns &= ~HAX_PATTERN_DILATED; }, kInvalid,
        "dilation: expected 0 without HAX_PATTERN_DILATED, got 4");
  spoil([](P& p) { p.key_order = nullptr; }, kInvalid, "key_order: expected a tensor, got NULL");
  spoil([](P& p) { p.begin = nullptr; }, kInvalid, "begin: expected a tensor, got NULL");
  spoil([](P& p) { p.end = nullptr; }, kInvalid, "end: expected a tensor, got NULL");
  spoil([](P& p) { p.eviction = nullptr; }, kInvalid, "eviction: expected a tensor, got NULL");
  spoil([](P& p) { p.patterns &= ~HAX_PATTERN_LSH; }, kInvalid,
        "key_order: expected NULL without HAX_PATTERN_LSH");
  spoil([](P& p) { p.patterns &= ~HAX_PATTERN_KEY_SELECTION; }, kInvalid,
        "eviction: expected NULL without HAX_PATTERN_KEY_SELECTION");
  spoil([](P& p) { p.eviction = p.begin; }, kInvalid, "eviction: expected shape (B=2, Hk=2, L=6)");
}

TEST(SparseAttentionArguments, TensorsAndNumbers) {
  const auto spoil = [](auto change, hax_status status, const std::string& words) {
    expect_refused(
        [&](Call& c) {
          change(c, c.forward);
          change(c, c.backward);
        },
        status, words);
  };
  spoil([](Call&, auto& a) { a.struct_size = 16; }, kInvalid, "args->struct_size");
  spoil([](Call&, auto& a) { a.pattern = nullptr; }, kInvalid,
        "pattern: expected a struct, got NULL");
  spoil([](Call&, auto& a) { a.q = nullptr; }, kInvalid, "q: expected a tensor, got NULL");
  spoil([](Call&, auto& a) { a.k = nullptr; }, kInvalid, "k: expected a tensor, got NULL");
  spoil([](Call&, auto& a) { a.v = nullptr; }, kInvalid, "v: expected a tensor, got NULL");
  spoil([](Call&, auto& a) { a.o = nullptr; }, kInvalid, "o: expected a tensor, got NULL");
  spoil([](Call& c, auto& a) { a.k = c.v.arg(); }, kInvalid,
        "k: expected shape (B=2, L=6, Hk, Dqk=16)");
  spoil([](Call& c, auto&) { c.v.descriptor()->dtype = kBf16; }, kUnsupported, "v: expected fp32");
  spoil([](Call& c, auto&) { c.q.descriptor()->dtype = kInt32; }, kUnsupported,
        "q: expected fp32, fp16 or bf16");
  spoil([](Call&, auto& a) { a.scale = 0.0f; }, kInvalid,
        "scale: expected a finite number other than 0");
  spoil([](Call&, auto& a) { a.scale = std::numeric_limits<float>::infinity(); }, kInvalid,
        "scale");
  spoil([](Call&, auto& a) { a.scale = std::numeric_limits<float>::quiet_NaN(); }, kInvalid,
        "scale");
  const Argument three = Argument::input(Array({2, 6, 3, 16})),
                 three_v = Argument::input(Array({2, 6, 3, 24}));
  spoil([&](Call&, auto& a) { a.k = three.arg(), a.v = three_v.arg(); }, kInvalid,
        "Hk: expected a divisor of Hq=4, got 3");
  const Argument wide_q = Argument::input(Array({2, 6, 4, 257})),
                 wide_k = Argument::input(Array({2, 6, 2, 257}));
  spoil([&](Call&, auto& a) { a.q = wide_q.arg(), a.k = wide_k.arg(); }, kUnsupported,
        "Dqk: expected 1 to 256, got 257");
  const Argument no_v = Argument::input(Array({2, 6, 2, 0}));
  spoil([&](Call&, auto& a) { a.v = no_v.arg(); }, kUnsupported, "Dv: expected 1 to 256, got 0");
  const Argument cu = Argument::indices({0, 6});
  spoil([&](Call&, auto& a) { a.cu_seqlens = cu.arg(); }, kInvalid,
        "cu_seqlens: expected B=1 beside it, got 2");
}

TEST(SparseAttentionArguments, BackwardsOwn) {
  const TestContext context;
  const auto spoil = [&](auto change, hax_status want, const std::string& words) {
    Call call;
    change(call, call.backward);
    size_t bytes = 0;
    EXPECT_TRUE(refused(hax_sparse_attention_backward_workspace(context, &call.backward, &bytes),
                        want, "hax_sparse_attention_backward", words));
  };
  spoil([](Call&, auto& a) { a.lse = nullptr; }, kInvalid, "lse: expected a tensor, got NULL");
  spoil([](Call&, auto& a) { a.d_o = nullptr; }, kInvalid, "d_o: expected a tensor, got NULL");
  spoil([](Call& c, auto& a) { a.dlse = c.o.arg(); }, kInvalid,
        "dlse: expected 3 axes (B=2, Hq=4, L=6)");
  spoil([](Call& c, auto& a) { a.dq = c.dk.arg(); }, kInvalid,
        "dq: expected shape (B=2, L=6, Hq=4, Dqk=16)");
  spoil([](Call& c, auto& a) { a.dk = c.dq.arg(); }, kInvalid,
        "dk: expected shape (B=2, L=6, Hk=2, Dqk=16)");
  spoil([](Call& c, auto& a) { a.dv = c.dk.arg(); }, kInvalid,
        "dv: expected shape (B=2, L=6, Hk=2, Dv=24)");
  spoil([](Call&, auto& a) { a.deterministic = 2; }, kInvalid,
        "deterministic: expected 0 or 1, got 2");
}

TEST(SparseAttentionArguments, DeviceWorkspaceAndStream) {
  const auto to_cuda = [](Call& c) {
    for (Argument* a :
         {&c.q, &c.k, &c.v, &c.d_o, &c.o, &c.lse, &c.dq, &c.dk, &c.dv, &c.pattern.key_order,
          &c.pattern.begin, &c.pattern.end, &c.pattern.eviction}) {
      a->descriptor()->device = {HAX_DEVICE_CUDA, 0};
    }
  };
  if (!hax_has_cuda()) expect_refused(to_cuda, kUnsupported, "expected CPU tensors");
  const TestContext context;
  Call call;
  size_t bytes = 0;
  ASSERT_EQ(hax_sparse_attention_forward_workspace(context, &call.forward, &bytes), HAX_SUCCESS);
  ASSERT_GT(bytes, 0u);
  HostScratch scratch(bytes);
  const auto forward = [&](void* memory, size_t size, void* stream) {
    return hax_sparse_attention_forward(context, &call.forward, memory, size, stream);
  };
  EXPECT_EQ(forward(scratch.data(), bytes - 1, nullptr), HAX_ERROR_WORKSPACE_TOO_SMALL);
  EXPECT_EQ(forward(nullptr, 0, nullptr), HAX_ERROR_WORKSPACE_TOO_SMALL);
  EXPECT_EQ(forward(static_cast<char*>(scratch.data()) + 4, bytes, nullptr),
            HAX_ERROR_WORKSPACE_TOO_SMALL);
  EXPECT_EQ(forward(scratch.data(), bytes, &call), kInvalid);
  EXPECT_TRUE(call.o.untouched());
  EXPECT_EQ(forward(scratch.data(), bytes, nullptr), HAX_SUCCESS);
}

// One faulty element of an index tensor, at (b, head, token).
void spoil_index(Argument& argument, int64_t b, int64_t head, int64_t token, int32_t value) {
  const hax_tensor* t = argument.arg();
  const int64_t offset = b * t->strides[0] + head * t->strides[1] + token * t->strides[2];
  std::memcpy(static_cast<char*>(t->data) + t->byte_offset + 4 * offset, &value, 4);
}

TEST(SparseAttentionArguments, IndexContents) {
  const auto spoil = [](Argument PatternArguments::*tensor, int64_t b, int64_t head, int64_t token,
                        int32_t value, const std::string& words) {
    expect_refused([&](Call& c) { spoil_index(c.pattern.*tensor, b, head, token, value); },
                   kInvalid, words, true);
  };
  using P = PatternArguments;
  spoil(&P::key_order, 1, 0, 5, 6, "key_order[1, 0, 5]: expected 0 to 5");
  spoil(&P::key_order, 0, 1, 0, -1, "key_order[0, 1, 0]: expected 0 to 5");
  spoil(&P::begin, 0, 3, 2, -1, "begin[0, 3, 2]: expected 0 to ");
  spoil(&P::begin, 1, 2, 0, 7, "begin[1, 2, 0]: expected 0 to ");
  spoil(&P::end, 1, 3, 5, 7, "end[1, 3, 5]: expected 0 to 6, got 7");
  spoil(&P::end, 1, 3, 5, -2, "end[1, 3, 5]: expected 0 to 6, got -2");
  spoil(&P::eviction, 0, 0, 3, 7, "eviction[0, 0, 3]: expected 3 to 6, got 7");
  spoil(&P::eviction, 1, 1, 3, 2, "eviction[1, 1, 3]: expected 3 to 6, got 2");
  expect_refused(
      [](Call& c) {
        spoil_index(c.pattern.key_order, 1, 1, 2, 4);
        spoil_index(c.pattern.key_order, 1, 1, 4, 4);
      },
      kInvalid, "and each position of the sequence once, got a second 4", true);
}

// Index tensors of packed sequences count from each sequence's start.
TEST(SparseAttentionArguments, IndexContentsPacked) {
  const TestContext context;
  const AttentionCase c{.batch = 1, .length = 9, .cu_seqlens = {0, 4, 4, 9}};
  for (const auto& [tensor, token, value, words] :
       std::vector<std::tuple<int, int64_t, double, std::string>>{
           {0, 2, 4.0, "key_order[0, 0, 2]: expected 0 to 3"},
           {1, 3, 5.0, "end[0, 0, 3]: expected 0 to 4, got 5"},
           {2, 1, 5.0, "eviction[0, 0, 1]: expected 1 to 4, got 5"},
           {2, 8, 9.0, "eviction[0, 0, 8]: expected 4 to 5, got 9"}}) {
    AttentionData data(c);
    Array* const arrays[] = {&data.key_order, &data.end, &data.eviction};
    arrays[tensor]->at(0, 0, token) = value;
    const PatternArguments pattern(c, data);
    const Argument q = Argument::input(data.oracle.q), k = Argument::input(data.oracle.k);
    const Argument v = Argument::input(data.oracle.v), o = Argument::output(c.o_shape());
    const Argument cu = Argument::indices(c.cu_seqlens);
    const hax_sparse_attention_forward_args args = {
        sizeof(args), q.arg(), k.arg(),          v.arg(), cu.arg(),
        o.arg(),      nullptr, &pattern.pattern, 1.0f,    0};
    HostScratch scratch(1 << 20);
    EXPECT_TRUE(refused(
        hax_sparse_attention_forward(context, &args, scratch.data(), scratch.size(), nullptr),
        kInvalid, "hax_sparse_attention_forward", words));
  }
}

}  // namespace
}  // namespace hax_test
