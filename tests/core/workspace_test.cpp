#include "core/workspace.hpp"

#include <gtest/gtest.h>

namespace hax {
namespace {

struct Pieces {
  float* a;
  double* b;
  char* c;
};

Pieces describe(Workspace& workspace) {
  return {workspace.take<float>(3), workspace.take<double>(0), workspace.take<char>(257)};
}

TEST(Workspace, CountingAndBoundRunsAgree) {
  Workspace counting;
  const Pieces none = describe(counting);
  EXPECT_EQ(none.a, nullptr);
  EXPECT_EQ(none.c, nullptr);
  EXPECT_EQ(counting.bytes(), 3 * Workspace::kAlignment);

  alignas(Workspace::kAlignment) char memory[3 * Workspace::kAlignment];
  Workspace bound(memory);
  const Pieces pieces = describe(bound);
  EXPECT_EQ(bound.bytes(), counting.bytes());
  EXPECT_EQ(reinterpret_cast<char*>(pieces.a), memory);
  EXPECT_EQ(pieces.c, memory + Workspace::kAlignment);
}

}  // namespace
}  // namespace hax
