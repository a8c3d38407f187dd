// Units of measurement, as far as short answers need them: what may be converted into what.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tessera::rl {

struct Unit {
  std::string dimension;  // equal for units that convert into each other: "length", "mass/length^3"
  double factor = 1;      // of the dimension's base unit
};

/// "km", "km/h", "m^2", "square metres", "%", "EUR", "minutes", ...; nullopt for words that are no
/// known unit.
[[nodiscard]] std::optional<Unit> find_unit(std::string_view text);

}  // namespace tessera::rl
