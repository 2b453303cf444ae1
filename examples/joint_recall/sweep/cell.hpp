// Cells of a sweep: runs of `train`, each with a place in a table.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace joint_recall {

using CellFlags = std::map<std::string, std::string>;  // of `train`, without dashes

struct Cell {
  std::string name;  // also that of its folder
  std::string row, column;
  CellFlags flags;
  std::optional<double> paper;  // test accuracy in percent
};

struct CellList {
  std::string name;
  std::string title;
  std::vector<Cell> cells;
};

CellList table3_cells();  // the paper's Table 3
CellList beyond_cells();  // further rows: modes the paper doesn't have

// "table3", "beyond", or a JSON file:
//   {"title": "...", "cells": [{"name": "...", "row": "...", "column": "...", "paper": 74.3,
//                               "flags": {"base_arch": "mamba2", "step": 1000, ...}}, ...]}
// where all but name and flags may be left out. Throws TrainErrors that name the file and the cell.
CellList load_cells(const std::string& list);

// Flags given on the command line win over those of the cells.
void set_flags(CellList& list, const CellFlags& flags);
// Keeps the named cells, in the list's order.
void keep_cells(CellList& list, const std::vector<std::string>& names);

// {"lr", "0.1"}, {"packing", "false"}: --lr 0.1 --no-packing.
std::vector<std::string> command_line(const CellFlags& flags);
// "lr=0.1"
std::pair<std::string, std::string> parse_flag(const std::string& text);

}  // namespace joint_recall
