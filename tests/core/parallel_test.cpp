#include "core/parallel.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace hax {
namespace {

TEST(Parallel, RunsEveryTaskOnceOnAThreadInRange) {
  for (const int threads : {1, 2, 7}) {
    for (const int64_t tasks : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      std::atomic<bool> in_range = true;
      parallel_for(threads, tasks, [&](int64_t task, int thread) {
        ++runs[static_cast<size_t>(task)];
        if (thread < 0 || thread >= threads) in_range = false;
      });
      EXPECT_TRUE(in_range);
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

}  // namespace
}  // namespace hax
