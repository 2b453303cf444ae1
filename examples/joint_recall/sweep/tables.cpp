// The lists of cells that are built in.
#include <fmt/format.h>

#include "sweep/cell.hpp"

namespace joint_recall {
namespace {

constexpr const char* kMamba = "mamba";
constexpr const char* kMamba2 = "mamba2";
constexpr const char* kHax = "sign_bin_lsh+key_selection";

const char* column_of(const std::string& base) { return base == kMamba ? "Mamba" : "Mamba2"; }

Cell make_cell(const std::string& base, const char* short_name, const char* row,
               const char* sparse_arch, CellFlags more, std::optional<double> paper) {
  more["base_arch"] = base;
  more["sparse_arch"] = sparse_arch;
  return {.name = fmt::format("{}+{}", base, short_name),
          .row = row,
          .column = column_of(base),
          .flags = std::move(more),
          .paper = paper};
}

}  // namespace

CellList table3_cells() {
  struct Row {
    const char *short_name, *row, *sparse_arch;
    double mamba, mamba2;  // the paper's figures
    CellFlags flags = {};
  };
  const Row rows[] = {
      {"base", "Base", "none", 16.3, 36.6, {{"double_width", "false"}}},
      {"d", "+D (dilated)", "dilated", 7.8, 19.6},
      {"sw", "+SW (sliding window)", "sliding_window", 18.7, 70.6},
      {"sw+d", "+SW+D", "sliding_window+dilated", 16.6, 48.6},
      {"a", "+A (sliding window, sinks)", "sliding_window+sink", 16.4, 49.3},
      {"lsh", "+LSH", "sign_bin_lsh", 11.6, 13.5},
      {"ks", "+KS (key selection)", "key_selection", 36.6, 60.1},
      {"hax", "+HAX (LSH, key selection)", kHax, 38.0, 74.3},
      {"base2x", "Base (2x dim)", "none", 34.5, 59.2, {{"double_width", "true"}}},
  };
  CellList list{.name = "table3", .title = "The paper's Table 3", .cells = {}};
  for (const Row& row : rows) {
    list.cells.push_back(
        make_cell(kMamba, row.short_name, row.row, row.sparse_arch, row.flags, row.mamba));
    list.cells.push_back(
        make_cell(kMamba2, row.short_name, row.row, row.sparse_arch, row.flags, row.mamba2));
  }
  list.cells.push_back({.name = "samba",
                        .row = "Samba",
                        .column = column_of(kMamba),
                        .flags = {{"base_arch", "samba"}, {"sparse_arch", "none"}},
                        .paper = 6.3});
  return list;
}

CellList beyond_cells() {
  const CellFlags decodable = {
      {"statistics", "causal"}, {"hash_redraw", "once"}, {"key_score_norm", "feature"}};
  const CellFlags decay = {{"decay_step", "100000"}};
  CellFlags both = decodable;
  both.insert(decay.begin(), decay.end());
  struct Row {
    const char *base, *short_name, *row;
    CellFlags flags;
    const char* sparse_arch = kHax;
  };
  const Row rows[] = {
      {kMamba, "hax_decodable", "+HAX, decodable", decodable},
      {kMamba2, "hax_decodable", "+HAX, decodable", decodable},
      {kMamba, "hax_decay", "+HAX, learning rate decays", decay},
      {kMamba2, "hax_decay", "+HAX, learning rate decays", decay},
      {kMamba2, "hax_decodable_decay", "+HAX, decodable, learning rate decays", both},
      {kMamba2, "hax_32_keys", "+HAX, 32 keys", {{"sparse_keys", "32"}}},
      {kMamba2, "hax_128_keys", "+HAX, 128 keys", {{"sparse_keys", "128"}}},
      {kMamba2, "hax_4_bits", "+HAX, 4 hash bits", {{"num_hash", "4"}}},
      {kMamba2, "hax_12_bits", "+HAX, 12 hash bits", {{"num_hash", "12"}}},
      {kMamba2, "full", "+full attention", {}, "full"},
  };
  CellList list{.name = "beyond", .title = "Beyond the paper", .cells = {}};
  for (const Row& row : rows) {
    list.cells.push_back(
        make_cell(row.base, row.short_name, row.row, row.sparse_arch, row.flags, std::nullopt));
  }
  return list;
}

}  // namespace joint_recall
