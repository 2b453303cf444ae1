#include "sweep/cell.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "train/error.hpp"
#include "train/run_files.hpp"
#include "train/settings.hpp"

namespace joint_recall {
namespace {

using Json = nlohmann::ordered_json;

// What the sweep itself decides for each run.
const std::set<std::string> kSweepsOwn = {"data_dir", "save_dir", "device"};

void check_flag(const std::string& name, const std::string& origin) {
  bool known = false;
  visit_fields([&](const char* field, const char*, Keep, auto) { known |= name == field; });
  if (!known || kSweepsOwn.contains(name)) {
    throw TrainError(fmt::format("{}: '{}' is {}", origin, name,
                                 known ? "for the sweep itself to set" : "no option of train"));
  }
}

void check_name(const std::string& name, const std::string& origin) {
  const bool plain = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '+' || c == '.';
  });
  if (name.empty() || name[0] == '.' || !plain) {
    throw TrainError(
        fmt::format("{}: a cell's name is made of letters, digits, '_', '-', '+' and '.', got '{}'",
                    origin, name));
  }
}

Cell cell_from_json(const Json& json, const std::string& origin) {
  static const std::set<std::string> kFields = {"name", "row", "column", "paper", "flags"};
  for (const auto& [key, value] : json.items()) {
    if (!kFields.contains(key))
      throw TrainError(fmt::format("{}: unknown field '{}'", origin, key));
  }
  Cell cell{.name = json.at("name").get<std::string>(),
            .row = json.value("row", ""),
            .column = json.value("column", ""),
            .flags = {},
            .paper = {}};
  check_name(cell.name, origin);
  if (cell.row.empty()) cell.row = cell.name;
  if (json.contains("paper")) cell.paper = json["paper"].get<double>();
  for (const auto& [name, value] : json.at("flags").items()) {
    check_flag(name, fmt::format("{}, cell '{}'", origin, cell.name));
    cell.flags[name] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return cell;
}

CellList read_cells(const std::string& path) {
  CellList list{.name = std::filesystem::path(path).stem().string(), .title = "", .cells = {}};
  std::set<std::string> names;
  try {
    const Json json = Json::parse(load_file(path));
    list.title = json.value("title", list.name);
    for (const Json& cell : json.at("cells")) {
      list.cells.push_back(cell_from_json(cell, path));
      if (!names.insert(list.cells.back().name).second) {
        throw TrainError(fmt::format("{}: two cells are named '{}'", path, list.cells.back().name));
      }
    }
  } catch (const Json::exception& error) {
    throw TrainError(fmt::format("{}: {}", path, error.what()));
  }
  if (list.cells.empty()) throw TrainError(fmt::format("{}: there are no cells in it", path));
  return list;
}

}  // namespace

CellList load_cells(const std::string& list) {
  if (list == "table3") return table3_cells();
  if (list == "beyond") return beyond_cells();
  std::error_code none;
  if (!std::filesystem::exists(list, none)) {
    throw TrainError(
        fmt::format("--cells: expected table3, beyond or a JSON file, got '{}'", list));
  }
  return read_cells(list);
}

void set_flags(CellList& list, const CellFlags& flags) {
  for (const auto& [name, value] : flags) {
    check_flag(name, "--set");
    for (Cell& cell : list.cells) cell.flags[name] = value;
  }
}

void keep_cells(CellList& list, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (std::ranges::none_of(list.cells, [&](const Cell& cell) { return cell.name == name; })) {
      std::string all;
      for (const Cell& cell : list.cells) all += (all.empty() ? "" : ", ") + cell.name;
      throw TrainError(fmt::format("--only: expected some of {}, got '{}'", all, name));
    }
  }
  std::erase_if(list.cells, [&](const Cell& cell) {
    return std::ranges::find(names, cell.name) == names.end();
  });
}

std::vector<std::string> command_line(const CellFlags& flags) {
  std::vector<std::string> words;
  for (const auto& [name, value] : flags) {
    if (value == "true" || value == "false") {
      words.push_back((value == "true" ? "--" : "--no-") + name);
    } else {
      words.push_back("--" + name);
      words.push_back(value);
    }
  }
  return words;
}

std::pair<std::string, std::string> parse_flag(const std::string& text) {
  const size_t sign = text.find('=');
  if (sign == std::string::npos || sign == 0 || sign + 1 == text.size()) {
    throw TrainError(
        fmt::format("--set: expected an option of train and its value, such as "
                    "step=1000, got '{}'",
                    text));
  }
  return {text.substr(0, sign), text.substr(sign + 1)};
}

}  // namespace joint_recall
