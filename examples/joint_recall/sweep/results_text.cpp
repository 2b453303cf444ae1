#include "sweep/results_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "train/error.hpp"
#include "train/progress_bar.hpp"
#include "train/report.hpp"

namespace joint_recall {
namespace {

std::string figure(double share) { return fmt::format("{:.1f}", 100.0 * share); }

std::string table_entry(const CellResult& result) {
  const std::string text = result.status == CellStatus::kDone
                               ? figure(result.test_accuracy)
                               : std::string(to_string(result.status));
  return result.cell.paper ? fmt::format("{} ({:.1f})", text, *result.cell.paper) : text;
}

// The flags that all cells have with equal values.
CellFlags common_flags(const SweepResults& results) {
  CellFlags common = results.cells.empty() ? CellFlags{} : results.cells[0].cell.flags;
  for (const CellResult& result : results.cells) {
    std::erase_if(common, [&](const auto& flag) {
      const auto found = result.cell.flags.find(flag.first);
      return found == result.cell.flags.end() || found->second != flag.second;
    });
  }
  return common;
}

std::string flags_text(const CellFlags& flags) {
  std::string text;
  for (const std::string& word : command_line(flags)) text += (text.empty() ? "" : " ") + word;
  return text;
}

std::string detail_line(const CellResult& result, const CellFlags& common) {
  CellFlags own = result.cell.flags;
  std::erase_if(own, [&](const auto& flag) { return common.contains(flag.first); });
  const std::string line =
      fmt::format("| {} | `{}` | {}", result.cell.name, flags_text(own), to_string(result.status));
  const std::string paper = result.cell.paper ? fmt::format("{:.1f}", *result.cell.paper) : "";
  if (result.status == CellStatus::kNotRun)
    return line + fmt::format(" | | | | | {} | | | | | |\n", paper);
  const bool done = result.status == CellStatus::kDone;
  const double test = 100.0 * result.test_accuracy;
  return line +
         fmt::format(
             "{} | {} | {} | {} | {} | {} | {} | {:.2f} | {} | {} | {} |\n",
             result.message.empty() ? "" : ": " + result.message, grouped(result.steps),
             grouped(result.best_step), figure(result.valid_accuracy),
             done ? figure(result.test_accuracy) : "", paper,
             done && result.cell.paper ? fmt::format("{:+.1f}", test - *result.cell.paper) : "",
             result.ms_per_step, duration_text(result.wall_seconds), result.cells_per_gpu,
             result.device);
}

}  // namespace

std::vector<std::string> distinct(const SweepResults& results, std::string Cell::*member) {
  std::vector<std::string> names;
  for (const CellResult& result : results.cells) {
    const std::string& name = result.cell.*member;
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  return names;
}

const CellResult* find_cell(const SweepResults& results, const std::string& row,
                            const std::string& column) {
  const auto found = std::ranges::find_if(results.cells, [&](const CellResult& result) {
    return result.cell.row == row && result.cell.column == column;
  });
  return found == results.cells.end() ? nullptr : &*found;
}

std::string results_table(const SweepResults& results) {
  const std::vector<std::string> columns = distinct(results, &Cell::column);
  std::string text = "|";
  for (const std::string& column : columns) text += " | " + column;
  text += " |\n|---";
  for (size_t i = 0; i < columns.size(); ++i) text += "|---";
  text += "|\n";
  for (const std::string& row : distinct(results, &Cell::row)) {
    text += "| " + row;
    for (const std::string& column : columns) {
      const CellResult* result = find_cell(results, row, column);
      text += " | " + (result == nullptr ? "" : table_entry(*result));
    }
    text += " |\n";
  }
  return text;
}

std::string results_details(const SweepResults& results) {
  std::string text =
      "| cell | flags | status | steps | best at step | validation | test | paper | difference | "
      "ms a step | wall time | cells at once | device |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  const CellFlags common = common_flags(results);
  for (const CellResult& result : results.cells) text += detail_line(result, common);
  return text;
}

std::string results_settings(const SweepResults& results) {
  const CellFlags common = common_flags(results);
  return common.empty()
             ? "`train --no-quick`, and for each cell the flags beside it."
             : fmt::format("`train --no-quick {}`, and for each cell the flags beside it.",
                           flags_text(common));
}

std::string fill_page(std::string page, const std::vector<SweepResults>& results) {
  const std::pair<const char*, std::function<std::string(const SweepResults&)>> parts[] = {
      {"table", results_table}, {"details", results_details}, {"settings", results_settings}};
  for (const SweepResults& sweep : results) {
    for (const auto& [part, make] : parts) {
      const std::string place = fmt::format("{{{{{}.{}}}}}", sweep.list, part);
      std::string text = make(sweep);
      if (text.ends_with('\n')) text.pop_back();
      for (size_t at = page.find(place); at != std::string::npos; at = page.find(place, at)) {
        page.replace(at, place.size(), text);
        at += text.size();
      }
    }
  }
  if (const size_t at = page.find("{{"); at != std::string::npos) {
    throw TrainError(fmt::format("the template names {}, which no results fill",
                                 page.substr(at, page.find("}}", at) + 2 - at)));
  }
  return page;
}

}  // namespace joint_recall
