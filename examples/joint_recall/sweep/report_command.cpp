// Writes a page and charts from the results of sweeps.
#include <memory>

#include "sweep/results_text.hpp"
#include "train/commands.hpp"
#include "train/report.hpp"
#include "train/run_files.hpp"

namespace joint_recall {
namespace {

struct ReportOptions {
  std::vector<std::string> results;
  std::string page_template, page, charts;
};

int run_report(const ReportOptions& options) {
  std::vector<SweepResults> all;
  for (const std::string& path : options.results) all.push_back(read_results(path));
  replace_file(options.page, fill_page(load_file(options.page_template), all));
  say("{}", options.page);
  if (options.charts.empty()) return 0;
  for (const SweepResults& results : all) {
    const std::filesystem::path chart =
        std::filesystem::path(options.charts) / (results.list + ".svg");
    replace_file(chart, results_chart(results));
    say("{}", chart.string());
  }
  return 0;
}

}  // namespace

void add_report_command(CLI::App& app, int& exit_code) {
  CLI::App* command =
      add_subcommand(app, "report", "Write a page from a template and the results of sweeps");
  const auto options = std::make_shared<ReportOptions>();
  command->add_option("--results", options->results, "Results of sweeps, JSON")
      ->required()
      ->delimiter(',');
  command
      ->add_option("--template", options->page_template,
                   "Page with {{LIST.table}}, {{LIST.details}} and {{LIST.settings}}")
      ->required();
  command->add_option("--page", options->page, "The page to write")->required();
  command->add_option("--charts", options->charts, "Folder for charts named LIST.svg");
  command->callback([options, &exit_code] { exit_code = run_report(*options); });
}

}  // namespace joint_recall
