// The promise that no sequence is longer: it changes no result, callers compiled before it keep working, and a broken
// one is an error where lengths can be read.
#pragma once

#include <cstddef>

#include "support/comparator.hpp"
#include "support/tensor_builder.hpp"

namespace hax_test {

inline const std::vector<int64_t> kPromiseBoundaries = {0,    1057, 1057, 1100,
                                                        3148, 3900};  // long in all, each short
inline constexpr int64_t kPromiseLength = 3900, kPromise = 2048;

// make(args): fills args and answers the outputs. Names of the calls come with the operator's.
template <class Args, class Make>
void expect_promise_kept(hax_status (*query)(const hax_context*, const Args*, size_t*),
                         hax_status (*call)(const hax_context*, const Args*, void*, size_t, void*),
                         Make&& make) {
  const TestContext context;
  const auto results = [&](int64_t max_seqlen, size_t struct_size) {
    Args args = {};
    const std::vector<Argument> outputs = make(args);
    args.max_seqlen = max_seqlen;
    EXPECT_EQ(run(query, call, context, args, struct_size), HAX_SUCCESS) << hax_last_error();
    std::vector<Array> arrays;
    for (const Argument& output : outputs) arrays.push_back(output.array());
    return arrays;
  };
  const std::vector<Array> want = results(0, sizeof(Args));
  const auto expect_same = [&](int64_t max_seqlen, size_t struct_size) {
    const std::vector<Array> got = results(max_seqlen, struct_size);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ(first_mask_mismatch(got[i], want[i]), -1) << "result " << i;
      EXPECT_EQ(difference(got[i], want[i]).worst, -1) << "result " << i;
    }
  };
  for (const int64_t max_seqlen : {kPromise, kPromise + 1, kPromiseLength, 10 * kPromiseLength}) {
    SCOPED_TRACE("max_seqlen=" + std::to_string(max_seqlen));
    expect_same(max_seqlen, sizeof(Args));
  }
  // The first release's struct ends before the promise: what lies behind it is not read.
  expect_same(-1, offsetof(Args, max_seqlen));

  Args args = {};
  const std::vector<Argument> outputs = make(args);
  const auto expect_refused = [&](int64_t max_seqlen, const char* text) {
    args.max_seqlen = max_seqlen;
    EXPECT_EQ(run(query, call, context, args), HAX_ERROR_INVALID_ARGUMENT);
    EXPECT_NE(std::string(hax_last_error()).find(text), std::string::npos) << hax_last_error();
  };
  expect_refused(-1, "max_seqlen: expected at least 0, got -1");
  if (!tests_use_cuda()) {
    expect_refused(kPromise - 1,
                   "max_seqlen: expected at least 2048, the length of sequence 3, got 2047");
  }
  for (const Argument& output : outputs) EXPECT_TRUE(output.untouched());
  args.cu_seqlens = nullptr;
  expect_refused(kPromise,
                 "max_seqlen: expected 0 or at least L=3900 without cu_seqlens, got 2048");
}

}  // namespace hax_test
