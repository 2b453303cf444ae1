// Matrices and a backend for tests of the backend's arithmetic against plain fp64 loops.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "model/backend.hpp"
#include "model_mixer_fixture.hpp"
#include "model_staged_backend.hpp"

namespace joint_recall {

// A matrix with a gap after each row, which has to stay as it is.
class GappedMatrix {
 public:
  static constexpr float kGap = -777.0f;

  GappedMatrix(int64_t rows, int64_t columns)
      : values_(static_cast<size_t>(rows * (columns + 3)), kGap),
        matrix_{values_.data(), rows, columns, columns + 3} {}
  explicit GappedMatrix(const Array& array) : GappedMatrix(array.size(0), array.size(1)) {
    for (int64_t r = 0; r < matrix_.rows; ++r) {
      for (int64_t c = 0; c < matrix_.columns; ++c) {
        matrix_.row(r)[c] = static_cast<float>(array.at(r, c));
      }
    }
  }

  operator Matrix() { return matrix_; }
  operator ConstMatrix() const { return matrix_; }
  Array array() const {
    Array result({matrix_.rows, matrix_.columns});
    for (int64_t r = 0; r < matrix_.rows; ++r) {
      for (int64_t c = 0; c < matrix_.columns; ++c) result.at(r, c) = double{matrix_.row(r)[c]};
      for (int64_t c = matrix_.columns; c < matrix_.stride; ++c) {
        EXPECT_EQ(matrix_.row(r)[c], kGap) << "row " << r;
      }
    }
    return result;
  }

 private:
  std::vector<float> values_;
  Matrix matrix_;
};

class BackendTest : public testing::Test {
 protected:
  StagedBackend backend_;
};

}  // namespace joint_recall
