// Numbers as models and people write them: 1,250.5, 1.250,5, 12 %, \frac{3}{4}, 1.2 \times 10^{-3},
// $5, 3\sqrt{2}, 5 km/h.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tessera::rl {

struct Quantity {
  double value = 0;
  std::string unit;  // as written, "" without one
};

/// The one quantity that `text` (a reference, or an answer marked as final) states. Of equations
/// the right-hand side; of a sentence its only number. nullopt where it states none or several: a
/// list of guesses is no answer.
///
/// Closed forms are computed: fractions, mixed numbers, powers, roots, multiples of pi, and sums
/// with a root or pi. A sum or product of plain numbers is not: leaving the arithmetic undone is no
/// answer either.
[[nodiscard]] std::optional<Quantity> parse_quantity(std::string_view text);

/// The last number of running text, with its unit where that is a known one. Digits inside of names
/// are no numbers.
[[nodiscard]] std::optional<Quantity> last_quantity(std::string_view text);

/// Equal up to |expected| * tolerance, in the same unit or in convertible ones where both give one.
/// A number without unit may stand for one with; 28 % also equals 0.28.
[[nodiscard]] bool same_quantity(const Quantity& given, const Quantity& expected, double tolerance);

/// `text` with LaTeX's spelling of text, blanks, fractions, signs and Markdown's emphasis made
/// plain. For tests.
[[nodiscard]] std::string plain_math(std::string_view text);

}  // namespace tessera::rl
