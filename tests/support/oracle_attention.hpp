#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "array.hpp"

// Sparse attention in fp64 over an explicit table of who attends whom.
namespace hax_test {

// Which keys each query of one stream (one query head of one sequence) attends. The pattern
// functions below never select j > i.
class Selection {
 public:
  explicit Selection(int64_t length)
      : length_(length), chosen_(static_cast<size_t>(length * length), 0) {}

  int64_t length() const { return length_; }
  bool at(int64_t i, int64_t j) const { return chosen_[static_cast<size_t>(i * length_ + j)] != 0; }
  void select(int64_t i, int64_t j) { chosen_[static_cast<size_t>(i * length_ + j)] = 1; }
  void unite(const Selection& other);
  bool row_empty(int64_t i) const;
  bool operator==(const Selection& other) const = default;

 private:
  int64_t length_;
  std::vector<uint8_t> chosen_;
};

Selection select_full(int64_t length);
Selection select_sliding_window(int64_t length, int64_t window);
Selection select_sink(int64_t length, int64_t sink);
Selection select_dilated(int64_t length, int64_t dilation);
Selection select_lsh(const std::vector<uint64_t>& codes_q, const std::vector<uint64_t>& codes_k,
                     int64_t budget);
Selection select_by_eviction(const std::vector<int64_t>& eviction);

struct AttentionArgs {
  Array q;  // (B, L, Hq, d_qk)
  Array k;  // (B, L, Hk, d_qk)
  Array v;  // (B, L, Hk, d_v)
  double scale = 1.0;
  std::vector<Selection> selections;  // sequence * Hq + query head
  std::vector<int64_t> cu_seqlens;
};
struct AttentionResult {
  Array o;    // (B, L, Hq, d_v)
  Array lse;  // (B, Hq, L), -inf where the row is empty
};
struct AttentionGrads {
  Array dq, dk, dv;
};
AttentionResult oracle_attention(const AttentionArgs& args);
AttentionGrads oracle_attention_backward(const AttentionArgs& args, const Array& do_,
                                         const Array& dlse = {});

// The softmax weights of an unpacked run: (B, Hq, L, L), rows of zeros where nothing is selected.
Array oracle_attention_probability(const AttentionArgs& args);

}  // namespace hax_test
