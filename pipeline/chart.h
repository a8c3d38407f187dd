// Small SVG charts with axes and labels, readable on light and dark backgrounds.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tessera::pipeline {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // by rising x
};

/// One line a series. Empty text if there is no point.
[[nodiscard]] std::string line_chart(const std::string& title, const std::string& x_label, const std::string& y_label, const std::vector<Series>& series);

/// Values of at least 0. Empty text without bars.
[[nodiscard]] std::string bar_chart(const std::string& title, const std::string& y_label, const std::vector<std::pair<std::string, double>>& bars);

}  // namespace tessera::pipeline
