#include "pipeline/chart.h"

#include <gmock/gmock.h>

namespace tessera::pipeline {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Chart, LinesHaveLabelsALegendAndDarkColours) {
  const auto svg = line_chart("Reward", "step", "mean <reward>", {{"first", {{1, 0.25}, {2, 0.5}}}, {"second", {{3, 0.75}}}});
  for (const char* part : {"<svg", "Reward", "step", "mean &lt;reward&gt;", "first", "second", "prefers-color-scheme:dark", ">0.2<", ">0.8<", "</svg>"})
    EXPECT_THAT(svg, HasSubstr(part));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(Chart, ConstantValuesAndSinglePointsHaveAScale) {
  EXPECT_THAT(line_chart("t", "x", "y", {{"flat", {{1, 0}}}}), Not(HasSubstr("nan")));
  EXPECT_THAT(bar_chart("t", "y", {{"none", 0}}), testing::AllOf(HasSubstr("none"), Not(HasSubstr("nan"))));
}

TEST(Chart, NothingMakesNoChart) {
  EXPECT_EQ(line_chart("t", "x", "y", {}), "");
  EXPECT_EQ(line_chart("t", "x", "y", {{"empty", {}}}), "");
  EXPECT_EQ(bar_chart("t", "y", {}), "");
}

}  // namespace
}  // namespace tessera::pipeline
