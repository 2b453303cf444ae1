// The names of enumerations, and the way back.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "hax/hax.h"
#include "model/config.hpp"

namespace joint_recall {
namespace {

template <class T>
using NameTable = std::initializer_list<std::pair<const char*, T>>;

template <class T>
T parse(const char* what, std::string_view text, NameTable<T> table) {
  std::vector<std::string> names;
  for (const auto& [name, value] : table) {
    if (text == name) return value;
    names.emplace_back(name);
  }
  throw ModelError(
      fmt::format("{}: expected one of {}, got '{}'", what, fmt::join(names, ", "), text));
}

template <class T>
const char* name_of(T value, NameTable<T> table) {
  for (const auto& [name, entry] : table) {
    if (entry == value) return name;
  }
  throw ModelError(fmt::format("no name for value {}", static_cast<int>(value)));
}

constexpr NameTable<BaseArch> kBases = {
    {"mamba", BaseArch::kMamba}, {"mamba2", BaseArch::kMamba2}, {"samba", BaseArch::kSamba}};
constexpr NameTable<HashStatistics> kStatistics = {{"none", HashStatistics::kNone},
                                                   {"sequence", HashStatistics::kSequence},
                                                   {"causal", HashStatistics::kCausal}};
constexpr NameTable<HashRedraw> kRedraws = {{"call", HashRedraw::kCall},
                                            {"once", HashRedraw::kOnce}};
constexpr NameTable<KeyScoreNorm> kNorms = {{"feature", KeyScoreNorm::kFeature},
                                            {"sequence", KeyScoreNorm::kSequence}};
constexpr NameTable<Precision> kPrecisions = {{"fp32", Precision::kFp32},
                                              {"bf16", Precision::kBf16}};
constexpr NameTable<uint32_t> kSparseArchs = {
    {"none", 0u},
    {"full", HAX_PATTERN_FULL},
    {"sliding_window", HAX_PATTERN_SLIDING_WINDOW},
    {"sliding_window+sink", HAX_PATTERN_SLIDING_WINDOW | HAX_PATTERN_SINK},
    {"dilated", HAX_PATTERN_DILATED},
    {"sliding_window+dilated", HAX_PATTERN_SLIDING_WINDOW | HAX_PATTERN_DILATED},
    {"sign_bin_lsh", HAX_PATTERN_LSH},
    {"key_selection", HAX_PATTERN_KEY_SELECTION},
    {"sign_bin_lsh+key_selection", HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION}};

}  // namespace

const char* to_string(BaseArch base) { return name_of(base, kBases); }
BaseArch parse_base_arch(std::string_view text) { return parse("base_arch", text, kBases); }

const char* to_string(HashStatistics statistics) { return name_of(statistics, kStatistics); }
HashStatistics parse_hash_statistics(std::string_view text) {
  return parse("statistics", text, kStatistics);
}

const char* to_string(HashRedraw redraw) { return name_of(redraw, kRedraws); }
HashRedraw parse_hash_redraw(std::string_view text) { return parse("hash_redraw", text, kRedraws); }

const char* to_string(KeyScoreNorm norm) { return name_of(norm, kNorms); }
KeyScoreNorm parse_key_score_norm(std::string_view text) {
  return parse("key_score_norm", text, kNorms);
}

const char* to_string(Precision precision) { return name_of(precision, kPrecisions); }
Precision parse_precision(std::string_view text) { return parse("precision", text, kPrecisions); }

int SparseArch::pattern_count() const { return std::popcount(patterns); }

std::string to_string(SparseArch sparse) { return name_of(sparse.patterns, kSparseArchs); }

SparseArch parse_sparse_arch(std::string_view text) {
  return {parse("sparse_arch", text, kSparseArchs)};
}

std::vector<std::string> sparse_arch_names() {
  std::vector<std::string> names;
  for (const auto& [name, patterns] : kSparseArchs) names.emplace_back(name);
  return names;
}

}  // namespace joint_recall
