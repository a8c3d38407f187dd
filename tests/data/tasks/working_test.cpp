#include <gtest/gtest.h>

#include <regex>
#include <sstream>

#include "data/tasks/task.h"

namespace tessera::data {
namespace {

/// Products and sums of numbers, without parentheses: "2 x 3 + 4".
double evaluate(const std::string& expression) {
  std::istringstream words(expression);
  double sum = 0, product = 0, number = 0, sign = 1;
  words >> product;
  for (std::string op; words >> op >> number;) {
    if (op == "x") product *= number;
    if (op == "/") product /= number;
    if (op != "+" && op != "-") continue;
    sum += sign * product;
    sign = op == "+" ? 1 : -1;
    product = number;
  }
  return sum + sign * product;
}

// The answer is checked against a second solver; this checks the way there.
TEST(Working, HoldsTrueEquations) {
  const std::regex equation(
      "(?:^|; |: |highest |slot )(\\d[\\d.]*(?: [-+x/] \\d[\\d.]*)+) = (\\d[\\d.]*)(?=;|$| ml| min| hours)");
  for (const Task& task : tasks()) {
    int num_equations = 0;
    for (const Problem& problem : generate_problems(task, 2000, 17, Split::kTrain)) {
      for (std::sregex_iterator i(problem.working.begin(), problem.working.end(), equation), end; i != end; ++i) {
        ++num_equations;
        EXPECT_NEAR(evaluate((*i)[1]), std::stod((*i)[2]), 1e-6) << problem.working;
      }
    }
    EXPECT_GT(num_equations, 300) << task.name;
  }
}

}  // namespace
}  // namespace tessera::data
