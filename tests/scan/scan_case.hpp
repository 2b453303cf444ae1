// What the tests of the two scans share: options of a run, named results, checkpoints.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "support/comparator.hpp"
#include "support/oracle_scan.hpp"
#include "support/tensor_builder.hpp"

namespace hax_test {

// How the values of a case are handed over.
struct ScanOptions {
  hax_data_type type = kFp32;
  hax_data_type state_type = kFp32;
  hax_data_type dt_type = kFp32;  // ssd only
  hax_data_type index_type = kInt32;
  Layout layout = Layout::compact;
};

// Results by name, "y" or "dB" and so on.
using NamedArguments = std::map<std::string, Argument>;
using NamedArrays = std::map<std::string, Array>;

// The rounding of outputs dominates in the 16-bit types.
inline double scan_tolerance(hax_data_type type) {
  if (type.bits == 32) return 1e-5;
  return type.code == HAX_TYPE_BFLOAT ? 4e-3 : 5e-4;
}

// What CUDA's products in tf32 add to gradients of 16-bit activations, whatever the gradients' own type.
inline double scan_backward_tolerance(hax_data_type activations) {
  if (!tests_use_cuda() || activations.bits == 32) return 0.0;
  return activations.code == HAX_TYPE_BFLOAT ? 4e-3 : 1.5e-3;
}

// Every wanted array against the argument of its name, which must have kept its sentinels. tolerance: at least that
// of the argument's type.
inline void expect_results(const NamedArguments& got, const NamedArrays& want,
                           double least_tolerance = 0.0) {
  for (const auto& [name, array] : want) {
    const auto found = got.find(name);
    ASSERT_NE(found, got.end()) << name;
    EXPECT_TRUE(found->second.sentinels_intact()) << name;
    const double tolerance = std::max(least_tolerance, scan_tolerance(found->second.arg()->dtype));
    EXPECT_TRUE(expect_close(name, found->second.array(), array, tolerance));
  }
}

inline void expect_same_bits(const NamedArguments& got, const NamedArguments& want) {
  for (const auto& [name, argument] : want) {
    const Array a = got.at(name).array(), b = argument.array();
    EXPECT_EQ(first_mask_mismatch(a, b), -1) << name;
    EXPECT_EQ(difference(a, b).worst, -1) << name;
  }
}

inline int64_t sequence_count(int64_t batch, const std::vector<int64_t>& cu_seqlens) {
  return cu_seqlens.empty() ? batch : static_cast<int64_t>(cu_seqlens.size()) - 1;
}

// The rows of a (B, floor(L / every), state...) tensor of checkpoints that states fall on, in the
// oracle's order; all others must be untouched poison.
inline Array gather_checkpoints(const Argument& checkpoints, int64_t length, int64_t every,
                                const std::vector<int64_t>& cu_seqlens) {
  const Array all = checkpoints.array();
  const int64_t batch = all.size(0), rows = all.size(1);
  std::vector<int64_t> state_shape(all.shape.begin() + 2, all.shape.end());
  const int64_t size = numel_of(state_shape);
  std::vector<int64_t> picked;
  if (cu_seqlens.empty()) {
    for (int64_t row = 0; row < batch * (length / every); ++row) picked.push_back(row);
  } else {
    for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
      for (int64_t c = 0; c < (cu_seqlens[s + 1] - cu_seqlens[s]) / every; ++c) {
        picked.push_back(cu_seqlens[s] / every + c);
      }
    }
  }
  std::vector<bool> used(static_cast<size_t>(batch * rows), false);
  std::vector<int64_t> shape = state_shape;
  shape.insert(shape.begin(), static_cast<int64_t>(picked.size()));
  Array gathered(shape);
  for (size_t i = 0; i < picked.size(); ++i) {
    used[static_cast<size_t>(picked[i])] = true;
    for (int64_t j = 0; j < size; ++j) {
      gathered.data[i * static_cast<size_t>(size) + static_cast<size_t>(j)] =
          all.data[static_cast<size_t>(picked[i] * size + j)];
    }
  }
  for (int64_t i = 0; i < all.numel(); ++i) {
    if (!used[static_cast<size_t>(i / size)]) {
      EXPECT_TRUE(std::isnan(all.data[static_cast<size_t>(i)])) << "row no state falls on, " << i;
    }
  }
  return gathered;
}

}  // namespace hax_test
