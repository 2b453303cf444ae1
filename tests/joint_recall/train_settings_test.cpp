#include "train/settings.hpp"

#include <gtest/gtest.h>

#include "dataset_fixture.hpp"
#include "train/error.hpp"
#include "train/trainer.hpp"

namespace joint_recall {
namespace {

// Flags as if given on the command line.
TrainFlags flags_of(const std::vector<std::pair<std::string, std::string>>& given) {
  TrainFlags flags;
  size_t known = 0;
  for (const auto& [given_name, text] : given) {
    visit_fields([&](const char* name, const char*, Keep, auto access) {
      if (name != given_name) return;
      parse_field(name, text, access(flags.value));
      flags.given.insert(name);
      ++known;
    });
  }
  EXPECT_EQ(known, given.size());
  return flags;
}

template <class Action>
std::string train_error_of(Action&& action) {
  try {
    action();
  } catch (const TrainError& error) {
    return error.what();
  } catch (const ModelError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

TEST(TrainSettings, TheDefaultsAreThePapers) {
  const TrainSettings settings = resolve_settings({}, false);
  EXPECT_EQ(settings.model.base_arch, BaseArch::kMamba);
  EXPECT_FALSE(settings.model.sparse_arch.present());
  EXPECT_EQ(settings.model.hidden_size, 128);  // without sparse attention
  EXPECT_EQ(settings.model.sparse_keys, 64);
  EXPECT_EQ(settings.model.num_hash, 8);
  EXPECT_EQ(settings.lr, 0.002);
  EXPECT_EQ(settings.gate_loss_weight, 0.1);
  EXPECT_EQ(settings.step, 400000);
  EXPECT_EQ(settings.warmup_step, 5000);
  EXPECT_EQ(settings.valid_step, 500);
  EXPECT_EQ(settings.bsz, 64);
  EXPECT_EQ(settings.grad_acc, 1);
  EXPECT_EQ(settings.seed, 1u);
  EXPECT_EQ(settings.data_dir, "data");
  EXPECT_EQ(settings.save_dir, "outputs");
  EXPECT_TRUE(settings.packing);
}

TEST(TrainSettings, WidthFollowsTheOfficialTrainer) {
  const auto width = [](const char* base, const char* sparse) {
    return resolve_settings(flags_of({{"base_arch", base}, {"sparse_arch", sparse}}), false)
        .model.hidden_size;
  };
  EXPECT_EQ(width("mamba", "full"), 64);
  EXPECT_EQ(width("mamba2", "none"), 128);
  EXPECT_EQ(width("mamba2", "sign_bin_lsh+key_selection"), 64);
  EXPECT_EQ(width("samba", "none"), 32);
  const auto flags = flags_of({{"base_arch", "mamba2"}, {"double_width", "false"}});
  EXPECT_EQ(resolve_settings(flags, false).model.hidden_size, 64);
}

TEST(TrainSettings, FlagsOverrideTheQuickSetting) {
  const TrainSettings quick = resolve_settings({}, true);
  EXPECT_EQ(to_string(quick.model.sparse_arch), "sign_bin_lsh+key_selection");
  EXPECT_EQ(quick.model.base_arch, BaseArch::kMamba2);
  EXPECT_EQ(quick.data_dir, kQuickDataDir);
  EXPECT_LE(quick.step, 2000);
  EXPECT_EQ(quick.step % quick.valid_step, 0);

  const TrainSettings settings = resolve_settings(
      flags_of({{"sparse_arch", "full"}, {"lr", "0.01"}, {"num_hash", "6"}, {"step", "5"}}), true);
  EXPECT_EQ(to_string(settings.model.sparse_arch), "full");
  EXPECT_EQ(settings.lr, 0.01);
  EXPECT_EQ(settings.model.num_hash, 6);
  EXPECT_EQ(settings.step, 5);
  EXPECT_EQ(settings.warmup_step, quick.warmup_step);
}

TEST(TrainSettings, ConfigurationFilesAreRead) {
  const auto flags = flags_of(
      {{"config_dir", JOINT_RECALL_CONFIGS}, {"base_arch", "mamba"}, {"sparse_arch", "full"}});
  TrainSettings expected =
      resolve_settings(flags_of({{"base_arch", "mamba"}, {"sparse_arch", "full"}}), false);
  EXPECT_TRUE(resolve_settings(flags, false).model == expected.model);
}

TEST(TrainSettings, LearningRateRisesFromZeroThenStays) {
  TrainSettings settings;
  settings.lr = 0.5;
  settings.warmup_step = 4;
  const std::vector<double> expected = {0.0, 0.125, 0.25, 0.375, 0.5, 0.5};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(learning_rate(settings, static_cast<int64_t>(i) + 1), expected[i]);
  }
  settings.warmup_step = 0;
  EXPECT_EQ(learning_rate(settings, 1), 0.5);
}

TEST(TrainSettings, WrongValuesAreNamed) {
  const struct {
    const char *name, *text, *problem;
  } cases[] = {
      {"base_arch", "mamba3", "expected one of mamba, mamba2, samba, got 'mamba3'"},
      {"sparse_arch", "lsh", "sign_bin_lsh+key_selection, got 'lsh'"},
      {"statistics", "global", "none, sequence, causal, got 'global'"},
      {"hash_redraw", "never", "call, once, got 'never'"},
      {"key_score_norm", "both", "feature, sequence, got 'both'"},
      {"precision", "fp8", "fp32, bf16, got 'fp8'"},
      {"lr", "fast", "--lr: expected a number, got 'fast'"},
      {"lr", "0", "--lr: expected a positive number, got 0"},
      {"lr", "nan", "--lr: expected a positive number, got nan"},
      {"gate_loss_weight", "-1", "--gate_loss_weight"},
      {"step", "0", "--step: expected 1 or more, got 0"},
      {"step", "1.5", "--step: expected a whole number, got '1.5'"},
      {"step", "99999999999999999999", "--step: expected a whole number"},
      {"warmup_step", "-1", "--warmup_step: expected 0 or more, got -1"},
      {"valid_step", "0", "--valid_step"},
      {"bsz", "0", "--bsz: expected 1 or more, got 0"},
      {"bsz", "", "--bsz: expected a whole number, got ''"},
      {"grad_acc", "65537", "--grad_acc: expected at most 65536, got 65537"},
      {"target_accuracy", "98", "--target_accuracy: expected a number from 0 to 1, got 98"},
      {"log_step", "0", "--log_step"},
      {"num_threads", "-2", "--num_threads"},
      {"seed", "-1", "--seed: expected a whole number from 0"},
      {"sparse_keys", "0", "sparse_keys"},
      {"num_hash", "64", "num_hash"},
      {"device", "tpu", "--device: expected cpu, cuda or cuda:N, got 'tpu'"},
      {"device", "cuda:x", "--device: expected cpu, cuda or cuda:N, got 'cuda:x'"},
      {"device", "cuda:1", "cuda:1 was asked for"},
      {"data_dir", "", "--data_dir: expected a name"},
      {"config_dir", "/absent", "/absent/mamba2"},
  };
  for (const auto& [name, text, problem] : cases) {
    const std::string got = train_error_of([&] {
      resolve_settings(flags_of({{name, text}}), true);
    });
    EXPECT_TRUE(contains(got, problem)) << name << " " << text;
  }
}

TEST(TrainSettings, JsonKeepsThem) {
  TrainSettings settings = resolve_settings(
      flags_of({{"lr", "0.0012345678901234567"}, {"seed", "18446744073709551615"}, {"step", "77"}}),
      true);
  const std::string text = settings_to_json(settings);
  const TrainSettings copy = settings_from_json(text, settings.model, "here");
  EXPECT_EQ(settings_to_json(copy), text);
  EXPECT_EQ(copy.seed, settings.seed);
  EXPECT_EQ(copy.lr, settings.lr);
  for (const char* local : {"save_dir", "device", "config_dir"}) {
    EXPECT_EQ(text.find(local), std::string::npos) << local;
  }
  const auto problem = [&](std::string changed, const std::string& from, const std::string& to) {
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    changed.replace(at, from.size(), to);
    return train_error_of([&] { settings_from_json(changed, settings.model, "here"); });
  };
  EXPECT_TRUE(contains(problem(text, "\"lr\"", "\"rl\""), "no field 'lr'"));
  EXPECT_TRUE(contains(problem(text, "\"lr\"", "\"x\": 1, \"lr\""), "unknown fields"));
  EXPECT_TRUE(contains(problem(text, "\"step\": 77", "\"step\": 7.5"), "field 'step'"));
  EXPECT_TRUE(contains(problem(text, "\"num_hash\": 4", "\"num_hash\": 5"), "disagree"));
  EXPECT_TRUE(contains(problem(text, "{", "["), "here: expected JSON"));
}

TEST(TrainSettings, AResumedRunKeepsItsOwn) {
  const TrainSettings stored = resolve_settings({}, true);
  const auto resumed = [&](const TrainFlags& flags) {
    return resume_settings(flags, stored, "the file");
  };
  EXPECT_EQ(resumed(flags_of({{"step", "5000"}, {"data_dir", "elsewhere"}})).step, 5000);
  EXPECT_EQ(resumed(flags_of({{"lr", "0.004"}})).lr, 0.004);
  const struct {
    const char *name, *text, *problem;
  } cases[] = {{"lr", "0.1", "--lr: the file is of a run with 0.004, got 0.1"},
               {"sparse_arch", "full", "of a run with sign_bin_lsh+key_selection, got full"},
               {"packing", "false", "of a run with true, got false"},
               {"seed", "2", "--seed"},
               {"valid_step", "7", "--valid_step"},
               {"save_dir", "x", "--save_dir: a resumed run keeps"},
               {"config_dir", "x", "--config_dir: a resumed run keeps"}};
  for (const auto& [name, text, problem] : cases) {
    EXPECT_TRUE(contains(train_error_of([&] {
                           resumed(flags_of({{name, text}}));
                         }),
                         problem))
        << name;
  }
  TrainFlags quick;
  quick.quick = true;
  EXPECT_TRUE(contains(train_error_of([&] { resumed(quick); }), "--quick"));
}

}  // namespace
}  // namespace joint_recall
