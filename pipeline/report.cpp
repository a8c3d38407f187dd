#include "pipeline/report.h"

#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "pipeline/chart.h"

namespace tessera::pipeline {

namespace {

using nlohmann::json;

std::string cell(const json& from, const char* key) { return from.is_object() && from.contains(key) ? short_number(from[key].get<double>()) : ""; }

std::string percent(const json& evaluation) { return evaluation.is_object() ? detail::concat(short_number(100 * evaluation["accuracy"].get<double>()), " %") : ""; }

std::string describe_counts(const ReportRow& row) {
  const json& counts = row.record["counts"];
  std::string text = detail::concat("- ", row.name, ": kept ", counts["kept"].dump(), " of ", counts["sampled"].dump(), " completions of ",
                                    counts["prompts"].dump(), " prompts");
  std::string separator = "; dropped: ";
  for (const auto& [reason, count] : counts["dropped"].items()) {
    std::string words = reason;
    for (char& c : words) c = c == '_' ? ' ' : c;
    text += separator + words + " " + count.dump();
    separator = ", ";
  }
  if (counts.contains("mixed"))
    for (const auto& [path, count] : counts["mixed"].items()) text += "; mixed with " + count.dump() + " from " + path;
  return text + "\n";
}

/// The values of `key` by step, over all stages that have it: the steps of one begin where those of the one before end.
std::vector<Series> by_step(const Report& report, const char* key) {
  std::vector<Series> all;
  double offset = 0;
  for (const auto& row : report.rows) {
    if (row.task != "grpo") continue;
    Series series{row.name, {}};
    std::istringstream lines(read_text_file(row.metrics));
    for (std::string line; std::getline(lines, line);) {
      const json metrics = json::parse(line);
      if (metrics.contains(key)) series.points.emplace_back(offset + metrics["step"].get<double>(), metrics[key].get<double>());
    }
    offset += row.record["steps"].get<double>();
    all.push_back(std::move(series));
  }
  return all;
}

}  // namespace

void write_report(const Report& report, const std::filesystem::path& folder) {
  std::string table = "| stage | task | steps | accuracy | mean length | reward first | reward last | seconds |\n|---|---|---|---|---|---|---|---|\n", counts;
  json stages = json::array();
  std::vector<std::pair<std::string, double>> bars;
  for (const auto& row : report.rows) {
    table += detail::concat("| ", row.name, " | ", row.task, " | ", cell(row.record, "steps"), " | ", percent(row.evaluation), " | ", cell(row.evaluation, "mean_length"), " | ",
                            cell(row.record, "reward_first"), " | ", cell(row.record, "reward_last"), " | ", cell(row.record, "seconds"), " |\n");
    json entry = {{"stage", row.name}, {"task", row.task}};
    for (const char* key : {"steps", "seconds", "reward_first", "reward_last", "length_last", "loss_last", "counts"})
      if (row.record.contains(key)) entry[key] = row.record[key];
    for (const char* key : {"accuracy", "mean_length", "prompts"})
      if (row.evaluation.is_object()) entry[key] = row.evaluation[key];
    stages.push_back(std::move(entry));
    if (row.record.contains("counts")) counts += describe_counts(row);
    if (row.evaluation.is_object()) bars.emplace_back(row.name, 100 * row.evaluation["accuracy"].get<double>());
  }
  std::string charts;
  make_directories(folder / "charts");
  const auto add = [&](const char* name, const std::string& svg, const char* what) {
    if (svg.empty()) return;
    write_file_atomically(folder / "charts" / name, svg);
    charts += detail::concat("![", what, "](charts/", name, ")\n\n");
  };
  add("accuracy.svg", bar_chart("Accuracy by stage", "accuracy (%)", bars), "Accuracy by stage");
  add("reward.svg", line_chart("Reward of rollouts", "step of reinforcement learning", "mean reward", by_step(report, "reward")), "Reward by step");
  add("length.svg", line_chart("Length of completions", "step of reinforcement learning", "mean length (tokens)", by_step(report, "completion_length")), "Length by step");
  std::string text = "# " + report.name + "\n\n" + table + "\n";
  if (!bars.empty()) text += "Accuracy and mean length: greedy completions of the report's prompts. ";
  text += "Rewards: means over the first and last tenth of the steps, ten at most. Seconds: steps, rollouts and sampling.\n\n";
  if (!counts.empty()) text += "## Samples\n\n" + counts + "\n";
  write_file_atomically(folder / "report.json", json{{"name", report.name}, {"stages", stages}}.dump(2) + "\n");
  write_file_atomically(folder / "report.md", text + charts);
}

}  // namespace tessera::pipeline
