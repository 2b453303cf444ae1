// Caller-given scratch memory. An operator describes its needs once, as a function that takes pieces
// from a Workspace; run with a counting one it says how much memory is needed, with a bound one it
// hands out the pointers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/element.hpp"

namespace hax {

class Workspace {
 public:
  static constexpr size_t kAlignment = 256;

  // Counts only: take() returns null.
  Workspace() = default;

  HAX_INLINE explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  HAX_INLINE T* take(int64_t count) {
    const size_t offset = bytes_;
    const size_t size = static_cast<size_t>(count) * sizeof(T);
    bytes_ += (size + kAlignment - 1) / kAlignment * kAlignment;
    return base_ ? reinterpret_cast<T*>(base_ + offset) : nullptr;
  }

  // For steps that run one after the other and keep nothing: each f(workspace) takes from the same start.
  template <class... F>
  HAX_INLINE void take_in_turn(F&&... f) {
    const size_t start = bytes_;
    size_t most = start;
    const auto step = [&](auto&& take_pieces) {
      bytes_ = start;
      take_pieces(*this);
      most = most > bytes_ ? most : bytes_;
    };
    (step(f), ...);
    bytes_ = most;
  }

  HAX_INLINE size_t bytes() const { return bytes_; }

 private:
  char* base_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace hax
