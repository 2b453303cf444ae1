// Memory for activations: handed out in order, given back in the opposite order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/backend.hpp"

namespace joint_recall {

// The first batch of a size finds too little memory and adds blocks; reset() then joins them into one
// that holds the most ever in use, so that later batches of that size or smaller allocate nothing.
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

  // Everything taken becomes invalid.
  void reset();
  size_t bytes() const;

  // Gives back at its end what was taken during its life.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), block_(arena.block_), used_(arena.used_) {}
    ~Scope() {
      arena_.block_ = block_;
      arena_.used_ = used_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t block_, used_;
  };

 private:
  struct Block {
    char* memory;
    size_t size;
  };

  size_t in_use() const;

  Backend& backend_;
  std::vector<Block> blocks_;
  size_t block_ = 0;  // being filled
  size_t used_ = 0;   // of that block
  size_t peak_ = 0;
};

}  // namespace joint_recall
