// Hashing and key selection inside the recorded layers: from the recorded keys and queries to the
// recorded choice of keys, scores, loss and gradients of the scoring network.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "hash/hash_case.hpp"
#include "support/golden_layer.hpp"

namespace hax_test {
namespace {

constexpr double kTolerance = 1e-5;

class GoldenKeys : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const Array projection = recorded("k_and_q_projection");
    batch_ = projection.size(0);
    length_ = projection.size(1);
    features_ = projection.size(2) / 2;
    const std::vector<int64_t> shape = {batch_, length_, 1, features_};
    k_ = Argument::input(slice_last(projection, 0, features_).reshape(shape));
    q_ = Argument::input(slice_last(projection, features_, 2 * features_).reshape(shape));
    scale_ = static_cast<float>(1.0 / std::sqrt(static_cast<double>(features_)));
    budget_ = layer_.config.keys_per_pattern();
  }

  Array recorded(const std::string& tensor) const { return file_.load(name_ + "/" + tensor); }
  Array param(const std::string& tensor) const { return layer_.param.at("dx_proj_" + tensor); }

  Argument hash(const Argument& x) const {
    const Argument R = Argument::input(layer_.hash_projection);
    const Argument code = Argument::output({batch_, 1, length_}, kInt64);
    hax_lsh_hash_forward_args args = {};
    args.x = x.arg();
    args.R = R.arg();
    args.code = code.arg();
    args.statistics = HAX_LSH_STATISTICS_SEQUENCE;
    EXPECT_EQ(run(hax_lsh_hash_forward_workspace, hax_lsh_hash_forward, context_, args),
              HAX_SUCCESS);
    return code;
  }

  // Marks each query's keys of equal code in (B, L, L).
  void add_hashed_keys(Array& chosen) const {
    const Argument code_q = hash(q_), code_k = hash(k_);
    const std::vector<int64_t> shape = {batch_, 1, length_};
    const Argument key_order = Argument::output(shape, kInt32);
    const Argument begin = Argument::output(shape, kInt32), end = Argument::output(shape, kInt32);
    hax_lsh_bucket_forward_args args = {};
    args.code_q = code_q.arg();
    args.code_k = code_k.arg();
    args.key_order = key_order.arg();
    args.begin = begin.arg();
    args.end = end.arg();
    args.num_bits = static_cast<int32_t>(layer_.hash_projection.size(1));
    args.budget = static_cast<int32_t>(budget_);
    HAX_RUN(lsh_bucket_forward, context_, args);
    const Array order = key_order.array(), first = begin.array(), last = end.array();
    for (int64_t b = 0; b < batch_; ++b) {
      for (int64_t i = 0; i < length_; ++i) {
        const auto stop = static_cast<int64_t>(last.at(b, 0, i));
        for (auto r = static_cast<int64_t>(first.at(b, 0, i)); r < stop; ++r) {
          chosen.at(b, i, static_cast<int64_t>(order.at(b, 0, r))) = 1.0;
        }
      }
    }
  }

  void add_selected_keys(Array& chosen) const {
    const Argument score = Argument::input(recorded("key_score").reshape({batch_, 1, length_}));
    const Argument eviction = Argument::output({batch_, 1, length_}, kInt32);
    hax_key_select_forward_args args = {};
    args.score = score.arg();
    args.eviction = eviction.arg();
    args.budget = static_cast<int32_t>(budget_);
    HAX_RUN(key_select_forward, context_, args);
    const Array evictions = eviction.array();
    for (int64_t b = 0; b < batch_; ++b) {
      for (int64_t j = 0; j < length_; ++j) {
        const auto stop = static_cast<int64_t>(evictions.at(b, 0, j));
        for (int64_t i = j; i < stop; ++i) chosen.at(b, i, j) = 1.0;
      }
    }
  }

  // The ranking loss's picks: where the noise of real tokens is largest.
  Argument picks() const {
    const Array noise = recorded("ranking_noise"), mask = recorded("attention_mask");
    Array pick({batch_, 1, budget_});
    for (int64_t b = 0; b < batch_; ++b) {
      std::vector<int64_t> order(static_cast<size_t>(length_));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
        const auto draw = [&](int64_t t) { return mask.at(b, t) != 0.0 ? noise.at(b, t) : -1.0; };
        return draw(i) > draw(j);
      });
      for (int64_t m = 0; m < budget_; ++m) {
        pick.at(b, 0, m) = static_cast<double>(order[static_cast<size_t>(m)]);
      }
    }
    return Argument::input(pick, kInt32);
  }

  std::string name_ = GetParam();
  Safetensors file_{golden_path(name_.starts_with("mamba2/") ? "golden_mixer_mamba2.safetensors"
                                                             : "golden_mixer_mamba.safetensors")};
  LayerArgs layer_ = golden_layer_args(file_, name_);
  TestContext context_;
  int64_t batch_ = 0, length_ = 0, features_ = 0, budget_ = 0;
  float scale_ = 0.0f;
  Argument q_, k_;
};

TEST_P(GoldenKeys, TheSameKeysAreChosen) {
  const Array probability = recorded("attention_probability"), empty = recorded("empty_row");
  Array chosen(probability.shape);
  if (layer_.config.has_pattern("sign_bin_lsh")) add_hashed_keys(chosen);
  if (layer_.config.has_pattern("key_selection")) add_selected_keys(chosen);
  for (int64_t b = 0; b < batch_; ++b) {
    for (int64_t i = 0; i < length_; ++i) {
      for (int64_t j = 0; j < length_; ++j) {
        const bool want = empty.at(b, i) == 0.0 && probability.at(b, i, j) > 0.0;
        ASSERT_EQ(chosen.at(b, i, j) != 0.0, want)
            << "sequence " << b << ", query " << i << ", key " << j;
      }
    }
  }
}

TEST_P(GoldenKeys, ScoresLossAndGradients) {
  if (!layer_.config.has_pattern("key_selection")) return;
  const Argument W1 = Argument::input(param("1.weight")), b1 = Argument::input(param("1.bias"));
  const Argument W2 = Argument::input(param("2.weight")), b2 = Argument::input(param("2.bias"));
  const Argument W3 = Argument::input(param("3.weight")), b3 = Argument::input(param("3.bias"));
  const Argument score = Argument::output({batch_, 1, length_});
  const auto fill = [&](auto& args) {
    args.q = q_.arg();
    args.k = k_.arg();
    args.W1 = W1.arg();
    args.b1 = b1.arg();
    args.W2 = W2.arg();
    args.b2 = b2.arg();
    args.W3 = W3.arg();
    args.b3 = b3.arg();
    args.k_scale = scale_;
    args.normalization = HAX_KEY_SCORE_NORM_SEQUENCE;
  };
  hax_key_score_forward_args scoring = {};
  fill(scoring);
  scoring.score = score.arg();
  HAX_RUN(key_score_forward, context_, scoring);
  EXPECT_TRUE(expect_close("key_score", score.array().reshape({batch_, length_}),
                           recorded("key_score"), kTolerance));

  const Argument pick = picks();
  const Argument loss = Argument::output({1}), target = Argument::output({batch_, 1, budget_});
  hax_ranking_loss_forward_args ranking = {};
  ranking.q = q_.arg();
  ranking.k = k_.arg();
  ranking.score = score.arg();
  ranking.pick = pick.arg();
  ranking.loss = loss.arg();
  ranking.target = target.arg();
  ranking.k_scale = scale_;
  HAX_RUN(ranking_loss_forward, context_, ranking);
  EXPECT_TRUE(expect_close("gate_loss", loss.array(), recorded("gate_loss"), kTolerance));

  const Argument dloss = Argument::input(Array({1}, golden_gate_weight(file_, name_)));
  const Argument dscore = Argument::output({batch_, 1, length_});
  hax_ranking_loss_backward_args ranking_back = {};
  ranking_back.score = score.arg();
  ranking_back.pick = pick.arg();
  ranking_back.target = target.arg();
  ranking_back.dloss = dloss.arg();
  ranking_back.dscore = dscore.arg();
  HAX_RUN(ranking_loss_backward, context_, ranking_back);

  std::map<std::string, Argument> gradient;
  for (const char* name : {"1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"}) {
    gradient[name] = Argument::output(param(name).shape);
  }
  hax_key_score_backward_args scoring_back = {};
  fill(scoring_back);
  scoring_back.dscore = dscore.arg();
  scoring_back.dW1 = gradient["1.weight"].arg();
  scoring_back.db1 = gradient["1.bias"].arg();
  scoring_back.dW2 = gradient["2.weight"].arg();
  scoring_back.db2 = gradient["2.bias"].arg();
  scoring_back.dW3 = gradient["3.weight"].arg();
  scoring_back.db3 = gradient["3.bias"].arg();
  HAX_RUN(key_score_backward, context_, scoring_back);
  for (const auto& [name, got] : gradient) {
    const Array want = recorded("d_param.dx_proj_" + name);
    if (name == "3.bias") {
      EXPECT_NEAR(got.array().at(0), want.at(0), 1e-8);  // exactly 0 but for rounding
    } else {
      EXPECT_TRUE(expect_close(name, got.array(), want, kTolerance));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, GoldenKeys,
                         ::testing::Values("mamba/sign_bin_lsh", "mamba/key_selection",
                                           "mamba/sign_bin_lsh+key_selection",
                                           "mamba2/sign_bin_lsh", "mamba2/key_selection",
                                           "mamba2/sign_bin_lsh+key_selection"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '/', '_');
                           std::replace(name.begin(), name.end(), '+', '_');
                           return name;
                         });

}  // namespace
}  // namespace hax_test
