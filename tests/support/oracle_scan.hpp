#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "array.hpp"

// The sequence operators in fp64, as plain loops over their defining recurrences.
// S is the number of sequences: B, or the number packed by cu_seqlens (then B = 1).
// Arrays marked optional may be absent. Gradients always come in full, also the gradient of an
// initial state that was absent and hence zero.
namespace hax_test {

struct Conv1dArgs {
  Array x;              // (B, L, D)
  Array weight;         // (D, W)
  Array bias;           // (D), optional
  Array initial_state;  // (S, W-1, D), optional
  bool silu = false;
  std::vector<int64_t> cu_seqlens;
};
struct Conv1dResult {
  Array y, final_state;
};
struct Conv1dGrads {
  Array dx, dweight, dbias, dinitial_state;
};
Conv1dResult oracle_causal_conv1d(const Conv1dArgs& args);
Conv1dGrads oracle_causal_conv1d_backward(const Conv1dArgs& args, const Array& dy,
                                          const Array& dfinal_state = {});

struct SelectiveScanArgs {
  Array u, delta;       // (B, L, D)
  Array A;              // (D, N)
  Array B, C;           // (B, L, G, N)
  Array D;              // (D), optional
  Array z;              // (B, L, D), optional
  Array delta_bias;     // (D), optional
  Array initial_state;  // (S, D, N), optional
  bool delta_softplus = true;
  int64_t checkpoint_every = 0;
  std::vector<int64_t> cu_seqlens;
};
struct ScanResult {
  Array y, final_state;
  // States after checkpoint_every, 2 checkpoint_every, ... tokens of each sequence, sequence
  // after sequence: (sum over sequences of length / checkpoint_every, state...).
  Array checkpoints;
};
struct SelectiveScanGrads {
  Array du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state;
};
ScanResult oracle_selective_scan(const SelectiveScanArgs& args);
SelectiveScanGrads oracle_selective_scan_backward(const SelectiveScanArgs& args, const Array& dy,
                                                  const Array& dfinal_state = {});

struct SsdArgs {
  Array x;              // (B, L, H, P)
  Array dt;             // (B, L, H)
  Array A;              // (H)
  Array B, C;           // (B, L, G, N)
  Array D;              // (H) or (H, P), optional
  Array z;              // (B, L, H, P), optional
  Array dt_bias;        // (H), optional
  Array initial_state;  // (S, H, P, N), optional
  bool dt_softplus = true;
  double dt_min = 0.0;
  double dt_max = std::numeric_limits<double>::infinity();
  int64_t checkpoint_every = 0;
  std::vector<int64_t> cu_seqlens;
};
struct SsdGrads {
  Array dx, ddt, dA, dB, dC, dD, dz, ddt_bias, dinitial_state;
};
ScanResult oracle_ssd(const SsdArgs& args);
// dt's gradient is zero where the clamp holds it.
SsdGrads oracle_ssd_backward(const SsdArgs& args, const Array& dy, const Array& dfinal_state = {});

}  // namespace hax_test
