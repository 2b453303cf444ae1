// The results of sweeps as Markdown and as a chart.
#pragma once

#include <string>
#include <vector>

#include "sweep/cell_result.hpp"

namespace joint_recall {

// Rows and columns as the cells name them; each entry is the test accuracy, and the paper's in brackets.
std::string results_table(const SweepResults& results);
// A line for each cell: how far it got, how long it took, where.
std::string results_details(const SweepResults& results);
// What all cells have in common.
std::string results_settings(const SweepResults& results);

// Test accuracy of each cell as a bar, with a mark at the paper's figure.
std::string results_chart(const SweepResults& results);

// Replaces {{LIST.table}}, {{LIST.details}} and {{LIST.settings}} in a page by those of the results named
// LIST. Throws a TrainError for a name that isn't there.
std::string fill_page(std::string page, const std::vector<SweepResults>& results);

// The distinct rows, or columns, in the order in which the cells first name them.
std::vector<std::string> distinct(const SweepResults& results, std::string Cell::*member);
const CellResult* find_cell(const SweepResults& results, const std::string& row,
                            const std::string& column);

}  // namespace joint_recall
