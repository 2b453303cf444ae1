#include <algorithm>
#include <utility>

#include "core/parallel.hpp"
#include "hash/ranking_loss/ranking_loss.hpp"

namespace hax::ranking_loss {

void order_picks(const Inputs& p, const PickPlan& plan, int num_threads) {
  parallel_for(num_threads, p.rows(), [&](int64_t row, int) {
    const int64_t s = row / p.heads, head = row % p.heads;
    const auto position = [&](int32_t m) { return *p.pick.at<int32_t>(s, head, m); };
    int32_t* entry = plan.entry + row * p.picks;
    int64_t count = 0;
    for (int64_t m = 0; m < p.picks; ++m) {
      if (position(static_cast<int32_t>(m)) >= 0) entry[count++] = static_cast<int32_t>(m);
    }
    std::sort(entry, entry + count, [&](int32_t a, int32_t b) {
      return std::pair(position(a), a) < std::pair(position(b), b);
    });
    plan.count[row] = count;
    const Sequences::Range range = p.sequences.range(s);
    float* score = plan.score + row * p.padded_picks();
    for (int64_t i = 0; i < count; ++i) {
      score[i] = *p.score.at<float>(range.row, head, range.begin + position(entry[i]));
    }
  });
}

}  // namespace hax::ranking_loss
