// Memory for activations: handed out in order, given back in the opposite order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/backend.hpp"

namespace joint_recall {

// The first batch of a size finds too little memory and adds blocks; reset() then joins them into one
// that holds the most ever in use, so that later batches of that size or smaller allocate nothing.
// The main line and each branch of the backend's work have memory of their own.
class Arena {
 public:
  explicit Arena(Backend& backend) : backend_(backend) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Aligned to 256 bytes, not initialised.
  void* take_bytes(size_t bytes);
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(static_cast<size_t>(count) * sizeof(T)));
  }
  Matrix matrix(int64_t rows, int64_t columns) {
    return compact(take<float>(rows * columns), rows, columns);
  }
  // Of the backend's element type; rows of bf16 start at multiples of 16 bytes.
  Tokens tokens(int64_t rows, int64_t columns);

  // Everything taken becomes invalid.
  void reset();
  size_t bytes() const;

 private:
  struct Block {
    char* memory;
    size_t size;
  };
  struct Line {
    std::vector<Block> blocks;
    size_t block = 0;  // being filled
    size_t used = 0;   // of that block
    size_t peak = 0;

    size_t in_use() const;
  };

 public:
  // Gives back at its end what was taken on the present line during its life; an idle one does not.
  class Scope {
   public:
    explicit Scope(Arena& arena, bool idle = false)
        : line_(*arena.line_), block_(line_.block), used_(line_.used), idle_(idle) {}
    ~Scope() {
      if (idle_) return;
      line_.block = block_;
      line_.used = used_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Line& line_;
    size_t block_, used_;
    bool idle_;
  };

  // Memory is the branch's during its life.
  class OnBranch {
   public:
    OnBranch(Arena& arena, int branch) : arena_(arena), before_(arena.line_) {
      arena.line_ = &arena.lines_.at(static_cast<size_t>(branch) + 1);
    }
    ~OnBranch() { arena_.line_ = before_; }
    OnBranch(const OnBranch&) = delete;
    OnBranch& operator=(const OnBranch&) = delete;

   private:
    Arena& arena_;
    Line* before_;
  };

 private:
  Backend& backend_;
  std::array<Line, Backend::kBranches + 1> lines_;
  Line* line_ = &lines_.front();
};

}  // namespace joint_recall
