// The end of a pipeline: report.md and report.json, with charts beside them.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tessera::pipeline {

struct ReportRow {
  std::string name, task;
  nlohmann::json record;      // done.json; null for the start model
  nlohmann::json evaluation;  // accuracy, mean_length, prompts; null without
  std::filesystem::path metrics;
};

struct Report {
  std::string name;
  std::vector<ReportRow> rows;
};

/// Writes report.md, report.json and charts/*.svg into `folder`.
void write_report(const Report& report, const std::filesystem::path& folder);

}  // namespace tessera::pipeline
