#include "pipeline/chart.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/text.h"

namespace tessera::pipeline {

namespace {

using detail::concat;

constexpr double kWidth = 640, kHeight = 300, kLeft = 64, kRight = 620, kTop = 40, kBottom = 240;
// Told apart by those who see no red or green (Okabe and Ito), and against white and black.
constexpr std::array kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};

std::string escape(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return result;
}

std::string text_at(double x, double y, const char* anchor, const std::string& text, const std::string& more = "") {
  return concat("<text x='", short_number(x), "' y='", short_number(y), "' text-anchor='", anchor, "'", more, ">", escape(text), "</text>\n");
}

/// 1, 2 or 5 times a power of ten, so that four to ten of them make up `range`.
double tick_step(double range) {
  const double power = std::pow(10, std::floor(std::log10(range / 4)));
  for (const double factor : {5.0, 2.0}) if (range / (factor * power) >= 4) return factor * power;
  return power;
}

/// From values to pixels.
struct Axis {
  double low, high, begin, end, step;
  Axis(double least, double most, double from, double to) : begin(from), end(to) {
    if (most - least < 1e-9) most = least + 1;
    step = tick_step(most - least);
    low = std::floor(least / step + 1e-9) * step;
    high = std::ceil(most / step - 1e-9) * step;
  }
  [[nodiscard]] double at(double value) const { return begin + (value - low) / (high - low) * (end - begin); }
};

std::string frame(const std::string& title, const std::string& y_label, const Axis& y) {
  std::string svg = concat("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 ", kWidth, " ", kHeight,
                           "' font-family='sans-serif' font-size='12' role='img'>\n<title>",
                           escape(title), "</title>\n<style>text{fill:#222}.axis{stroke:#222}.grid{stroke:#8886}",
                           "@media(prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#ddd}}</style>\n");
  svg += text_at((kLeft + kRight) / 2, 20, "middle", title, " font-size='15'");
  svg += text_at(16, (kTop + kBottom) / 2, "middle", y_label, concat(" transform='rotate(-90 16 ", (kTop + kBottom) / 2, ")'"));
  for (double v = y.low; v <= y.high + y.step / 2; v += y.step) {
    const double p = y.at(v);
    svg += concat("<line class='grid' x1='", kLeft, "' x2='", kRight, "' y1='", p, "' y2='", p, "'/>\n");
    svg += text_at(kLeft - 6, p + 4, "end", short_number(std::abs(v) < y.step / 1000 ? 0 : v));
  }
  return svg + concat("<path class='axis' fill='none' d='M", kLeft, " ", kTop, "V", kBottom, "H", kRight, "'/>\n");
}

}  // namespace

std::string line_chart(const std::string& title, const std::string& x_label, const std::string& y_label, const std::vector<Series>& series) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double x_low = kInfinity, x_high = -kInfinity, y_low = kInfinity, y_high = -kInfinity;
  for (const auto& s : series)
    for (const auto& [x, y] : s.points) {
      x_low = std::min(x_low, x), x_high = std::max(x_high, x);
      y_low = std::min(y_low, y), y_high = std::max(y_high, y);
    }
  if (!std::isfinite(x_low) || !std::isfinite(y_low + y_high)) return "";
  const Axis y(std::min(0.0, y_low), y_high, kBottom, kTop), x(std::min(0.0, x_low), x_high, kLeft, kRight);
  std::string svg = frame(title, y_label, y) + text_at((kLeft + kRight) / 2, kBottom + 34, "middle", x_label);
  for (double v = x.low; v <= x.high + x.step / 2; v += x.step) svg += text_at(x.at(v), kBottom + 16, "middle", short_number(v));
  double legend = kLeft;
  for (size_t k = 0; k < series.size(); ++k) {
    const char* colour = kColours[k % kColours.size()];
    svg += concat("<polyline fill='none' stroke-width='1.8' stroke='", colour, "' points='");
    for (const auto& [px, py] : series[k].points) svg += concat(short_number(x.at(px)), ",", short_number(y.at(py)), " ");
    svg += concat("'/>\n<rect x='", legend, "' y='", kHeight - 16, "' width='12' height='4' fill='", colour, "'/>\n");
    svg += text_at(legend + 18, kHeight - 10, "start", series[k].name);
    legend += 36 + 7.5 * static_cast<double>(series[k].name.size());
  }
  return svg + "</svg>\n";
}

std::string bar_chart(const std::string& title, const std::string& y_label, const std::vector<std::pair<std::string, double>>& bars) {
  if (bars.empty()) return "";
  double most = 0;
  for (const auto& [name, value] : bars) most = std::max(most, value);
  const Axis y(0, most, kBottom, kTop);
  std::string svg = frame(title, y_label, y);
  const double width = (kRight - kLeft) / static_cast<double>(bars.size());
  for (size_t k = 0; k < bars.size(); ++k) {
    const double left = kLeft + width * static_cast<double>(k), top = y.at(std::max(0.0, bars[k].second)), middle = left + width / 2;
    svg += concat("<rect x='", short_number(left + width * 0.2), "' y='", short_number(top), "' width='",
                  short_number(width * 0.6), "' height='", short_number(kBottom - top), "' fill='", kColours[0], "'/>\n");
    svg += text_at(middle, top - 4, "middle", short_number(bars[k].second));
    svg += text_at(middle, kBottom + 16, "end", bars[k].first, concat(" transform='rotate(-20 ", short_number(middle), " ", kBottom + 16, ")'"));
  }
  return svg + "</svg>\n";
}

}  // namespace tessera::pipeline
