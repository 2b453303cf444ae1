// Everything a run is told: the flags of `train`, and where their values come from.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "data/generator.hpp"
#include "model/config.hpp"
#include "train/device.hpp"

namespace joint_recall {

struct TrainSettings {
  ModelConfig model = default_config(BaseArch::kMamba, false);
  bool double_width = false;
  double lr = 0.002;
  double gate_loss_weight = 0.1;
  int64_t step = 400000;
  int64_t warmup_step = 5000;
  int64_t decay_step = 0;
  int64_t valid_step = 500;
  int64_t bsz = 64;
  int64_t grad_acc = 1;
  uint64_t seed = 1;
  double target_accuracy = 0.0;  // of validation, ends the run; 0: none
  bool packing = true;
  int64_t log_step = 10;
  std::string config_dir;  // empty: the published configurations, which are built in
  std::string data_dir = "data";
  std::string save_dir = "outputs";
  std::string device = default_device();
  int64_t num_threads = 0;  // 0: as many as the OpenMP runtime gives
};

// The command line of `train`.
struct TrainFlags {
  TrainSettings value;
  std::set<std::string> given;  // names of the fields of `value` that were given
  std::optional<bool> quick;
  std::string resume;  // empty: a new run

  bool has(const std::string& name) const { return given.contains(name); }
};

// What becomes of a field in a checkpoint and on resuming.
enum class Keep {
  kFixed,   // kept, and a resumed run must agree
  kStored,  // kept, and a resumed run may choose anew
  kLocal,   // not kept: it doesn't change what is computed
};

// Calls visit(name, help, keep, access) for each field that is also a flag, in the order of the help;
// access(settings) gives a reference to the field.
template <class Visit>
void visit_official_fields(Visit&& visit) {
  visit(
      "base_arch", "Base architecture: mamba, mamba2 or samba", Keep::kFixed,
      [](auto& s) -> auto& { return s.model.base_arch; });
  visit(
      "sparse_arch", "Sparse attention joined to the base: none or patterns joined by '+'",
      Keep::kFixed, [](auto& s) -> auto& { return s.model.sparse_arch; });
  visit(
      "sparse_keys", "Keys a query may attend, shared out among the patterns", Keep::kFixed,
      [](auto& s) -> auto& { return s.model.sparse_keys; });
  visit(
      "num_hash", "Bits of the sign-bin hash", Keep::kFixed,
      [](auto& s) -> auto& { return s.model.num_hash; });
  visit(
      "lr", "Learning rate after the warm-up", Keep::kFixed, [](auto& s) -> auto& { return s.lr; });
  visit(
      "gate_loss_weight", "Weight of the ranking loss that trains key selection", Keep::kFixed,
      [](auto& s) -> auto& { return s.gate_loss_weight; });
  visit(
      "step", "Training steps", Keep::kStored, [](auto& s) -> auto& { return s.step; });
  visit(
      "warmup_step", "Steps over which the learning rate rises from 0", Keep::kFixed,
      [](auto& s) -> auto& { return s.warmup_step; });
  visit(
      "valid_step", "Validate, and save, every that many steps", Keep::kFixed,
      [](auto& s) -> auto& { return s.valid_step; });
  visit(
      "bsz", "Items in a batch", Keep::kFixed, [](auto& s) -> auto& { return s.bsz; });
  visit(
      "grad_acc", "Batches a step averages its gradient over", Keep::kFixed,
      [](auto& s) -> auto& { return s.grad_acc; });
  visit(
      "config_dir", "Folder of model configurations (default: the published ones, built in)",
      Keep::kLocal, [](auto& s) -> auto& { return s.config_dir; });
  visit(
      "data_dir", "Folder of the data set", Keep::kStored,
      [](auto& s) -> auto& { return s.data_dir; });
  visit(
      "save_dir", "Folder in which the run makes its own folder", Keep::kLocal,
      [](auto& s) -> auto& { return s.save_dir; });
  visit(
      "device", "cpu, cuda or cuda:N", Keep::kLocal, [](auto& s) -> auto& { return s.device; });
  visit(
      "seed", "Seed of weights, hash projections and ranking picks", Keep::kFixed,
      [](auto& s) -> auto& { return s.seed; });
}

template <class Visit>
void visit_own_fields(Visit&& visit) {
  visit(
      "target_accuracy", "Validation accuracy, e.g. 0.98, that ends the run before --step; 0: none",
      Keep::kStored, [](auto& s) -> auto& { return s.target_accuracy; });
  visit(
      "packing", "Items end to end (default); --no-packing pads each to the longest", Keep::kFixed,
      [](auto& s) -> auto& { return s.packing; });
  visit(
      "decay_step", "Last steps of --step over which the learning rate falls to 0; 0: constant",
      Keep::kFixed, [](auto& s) -> auto& { return s.decay_step; });
  visit(
      "double_width", "Twice the hidden size (default: only without sparse attention)",
      Keep::kFixed, [](auto& s) -> auto& { return s.double_width; });
  visit(
      "statistics", "Centre and scale before hashing: none, sequence or causal", Keep::kFixed,
      [](auto& s) -> auto& { return s.model.statistics; });
  visit(
      "hash_redraw", "Draw the hash projection anew at every call, or once: call or once",
      Keep::kFixed, [](auto& s) -> auto& { return s.model.hash_redraw; });
  visit(
      "key_score_norm", "Axis over which key scores normalise the query sum: feature or sequence",
      Keep::kFixed, [](auto& s) -> auto& { return s.model.key_score_norm; });
  visit(
      "precision", "Activations given to libhax: fp32 or bf16", Keep::kFixed,
      [](auto& s) -> auto& { return s.model.precision; });
  visit(
      "log_step", "Steps a line of metrics averages over", Keep::kFixed,
      [](auto& s) -> auto& { return s.log_step; });
  visit(
      "num_threads", "CPU threads; 0: as many as OpenMP gives. Equal bits need equal numbers",
      Keep::kStored, [](auto& s) -> auto& { return s.num_threads; });
}

template <class Visit>
void visit_fields(Visit&& visit) {
  visit_official_fields(visit);
  visit_own_fields(visit);
}

// A field's value from text, and back. parse_field throws a TrainError or ModelError that names the
// flag, what it may be and what came.
void parse_field(const char* name, const std::string& text, BaseArch& value);
void parse_field(const char* name, const std::string& text, SparseArch& value);
void parse_field(const char* name, const std::string& text, HashStatistics& value);
void parse_field(const char* name, const std::string& text, HashRedraw& value);
void parse_field(const char* name, const std::string& text, KeyScoreNorm& value);
void parse_field(const char* name, const std::string& text, Precision& value);
void parse_field(const char* name, const std::string& text, int64_t& value);
void parse_field(const char* name, const std::string& text, uint64_t& value);
void parse_field(const char* name, const std::string& text, double& value);
void parse_field(const char* name, const std::string& text, bool& value);
void parse_field(const char* name, const std::string& text, std::string& value);
std::string field_text(double value);
std::string field_text(bool value);
std::string field_text(const std::string& value);
template <class T>
std::string field_text(const T& value) {
  if constexpr (std::is_integral_v<T>) {
    return std::to_string(value);
  } else {
    return to_string(value);
  }
}

// Settings of a new run: explicit flags, before the quick setting where `quick`, before the
// configuration file, before the paper's. Throws TrainError or ModelError naming what is wrong.
TrainSettings resolve_settings(const TrainFlags& flags, bool quick);
void check_settings(const TrainSettings& settings);

// Settings of a resumed run: those of the checkpoint, which explicit flags must not contradict save
// where a run may choose anew. `origin` names the checkpoint.
TrainSettings resume_settings(const TrainFlags& flags, const TrainSettings& stored,
                              const std::string& origin);

// The stored fields as JSON text and back. The model configuration is kept apart: its fields appear
// here for the reader's sake and are checked to agree.
std::string settings_to_json(const TrainSettings& settings);
TrainSettings settings_from_json(const std::string& text, const ModelConfig& model,
                                 const std::string& origin);

// The quick setting's data set, and the folder it gets where --data_dir isn't given.
GeneratorArgs quick_dataset();
inline constexpr const char* kQuickDataDir = "data/quick_4x4x8";

// "mamba2+sign_bin_lsh+key_selection_lr_0.004_gate_loss_weight_0.1_seed_1"
std::string run_name(const TrainSettings& settings);

}  // namespace joint_recall
