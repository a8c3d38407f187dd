#include "rl/rewards/units.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "rl/rewards/answer.h"

namespace tessera::rl {
namespace {

struct Row {
  const char* names;  // separated by blanks; the longer ones in lower case, their plural with s is
                      // known too
  const char* dimension;
  double factor;
};

constexpr Row kTable[] = {
    {"nm nanometer nanometre", "length", 1e-9},
    {"µm um micrometer micrometre", "length", 1e-6},
    {"mm millimeter millimetre", "length", 1e-3},
    {"cm centimeter centimetre", "length", 1e-2},
    {"dm decimeter decimetre", "length", 1e-1},
    {"m meter metre", "length", 1},
    {"km kilometer kilometre", "length", 1e3},
    {"in inch inches", "length", 0.0254},
    {"ft foot feet", "length", 0.3048},
    {"yd yard", "length", 0.9144},
    {"mi mile", "length", 1609.344},
    {"µg ug mcg microgram", "mass", 1e-9},
    {"mg milligram", "mass", 1e-6},
    {"g gram", "mass", 1e-3},
    {"kg kilogram kilo", "mass", 1},
    {"t ton tonne", "mass", 1e3},
    {"lb lbs pound", "mass", 0.45359237},
    {"oz ounce", "mass", 0.028349523125},
    {"ns nanosecond", "time", 1e-9},
    {"µs us microsecond", "time", 1e-6},
    {"ms millisecond", "time", 1e-3},
    {"s sec second", "time", 1},
    {"min minute", "time", 60},
    {"h hr hrs hour", "time", 3600},
    {"d day", "time", 86400},
    {"wk week", "time", 604800},
    {"month", "months", 1},
    {"yr year", "months", 12},
    {"ml mL milliliter millilitre", "length^3", 1e-6},
    {"cl cL", "length^3", 1e-5},
    {"dl dL", "length^3", 1e-4},
    {"l L liter litre", "length^3", 1e-3},
    {"ha hectare", "length^2", 1e4},
    {"kmh kph", "length/time", 1e3 / 3600},
    {"mph", "length/time", 1609.344 / 3600},
    {"N newton", "force", 1},
    {"kN", "force", 1e3},
    {"J joule", "energy", 1},
    {"kJ kilojoule", "energy", 1e3},
    {"Wh", "energy", 3600},
    {"kWh", "energy", 3.6e6},
    {"cal calorie", "energy", 4.184},
    {"kcal", "energy", 4184},
    {"W watt", "power", 1},
    {"kW kilowatt", "power", 1e3},
    {"MW megawatt", "power", 1e6},
    {"Pa pascal", "pressure", 1},
    {"hPa", "pressure", 1e2},
    {"kPa", "pressure", 1e3},
    {"bar", "pressure", 1e5},
    {"mmHg", "pressure", 133.322387415},
    {"V volt", "voltage", 1},
    {"mV", "voltage", 1e-3},
    {"A amp ampere", "current", 1},
    {"mA", "current", 1e-3},
    {"Ω ohm", "resistance", 1},
    {"Hz hertz", "frequency", 1},
    {"kHz", "frequency", 1e3},
    {"MHz", "frequency", 1e6},
    {"mol mole", "amount", 1},
    {"mmol", "amount", 1e-3},
    {"IU", "international units", 1},
    {"K kelvin", "kelvin", 1},
    {"°C celsius", "celsius", 1},
    {"°F fahrenheit", "fahrenheit", 1},
    {"° deg degree", "angle", 1},
    {"rad radian", "angle", 57.29577951308232},
    {"% percent pct percentage", "percent", 1},
    {"bit", "data", 1},
    {"B byte", "data", 8},
    {"kB KB kilobyte", "data", 8e3},
    {"MB megabyte", "data", 8e6},
    {"GB gigabyte", "data", 8e9},
    {"$ USD usd dollar", "USD", 1},
    {"¢ cent", "cents", 1},
    {"€ EUR eur euro", "EUR", 1},
    {"£ GBP gbp", "GBP", 1},
    {"¥ JPY jpy yen", "JPY", 1},
    {"₹ INR inr rupee", "INR", 1},
    {"CHF chf Fr.", "CHF", 1},
    {"CNY cny RMB yuan", "CNY", 1},
};

using Names = std::unordered_map<std::string_view, const Row*>;

const Names& all_names() {
  static const Names names = [] {
    Names found;
    for (const Row& row : kTable) {
      for (std::string_view rest = row.names; !rest.empty();) {
        const size_t end = std::min(rest.find(' '), rest.size());
        found.emplace(rest.substr(0, end), &row);
        rest.remove_prefix(std::min(end + 1, rest.size()));
      }
    }
    return found;
  }();
  return names;
}

std::optional<Unit> find_name(std::string_view name) {
  const auto look = [](std::string_view wanted) -> std::optional<Unit> {
    const auto found = all_names().find(wanted);
    if (found == all_names().end()) return std::nullopt;
    return Unit{found->second->dimension, found->second->factor};
  };
  if (const auto unit = look(name)) return unit;
  const std::string small =
      lower(name);  // "Mg" is not "mg", but "Meters" is "meters": short names keep their case
  if (small.size() <= 2) return std::nullopt;
  if (const auto unit = look(small)) return unit;
  if (small.size() > 3 && small.back() == 's')
    return look(std::string_view(small).substr(0, small.size() - 1));
  return std::nullopt;
}

Unit power(const Unit& unit, int exponent) {
  if (exponent == 1) return unit;
  return {unit.dimension + "^" + std::to_string(exponent), std::pow(unit.factor, exponent)};
}

/// "m", "m^2", "m2" of a known m, "square m", "cubic metres".
std::optional<Unit> find_power(std::string_view text) {
  text = trim(text);
  if (const auto unit = find_name(text)) return unit;
  const std::pair<std::string_view, int> words[] = {
      {"square ", 2}, {"sq ", 2}, {"sq. ", 2}, {"cubic ", 3}};
  for (const auto& [word, exponent] : words) {
    if (!lower(text).starts_with(word)) continue;
    const auto unit = find_name(trim(text.substr(word.size())));
    return unit ? std::optional(power(*unit, exponent)) : std::nullopt;
  }
  std::string bare;
  for (const char c : text)
    if (c != '{' && c != '}' && c != ' ') bare += c;
  if (bare.size() < 2 || (bare.back() != '2' && bare.back() != '3')) return std::nullopt;
  const int exponent = bare.back() - '0';
  bare.pop_back();
  if (!bare.empty() && bare.back() == '^') bare.pop_back();
  const auto unit = find_name(bare);
  return unit ? std::optional(power(*unit, exponent)) : std::nullopt;
}

}  // namespace

std::optional<Unit> find_unit(std::string_view text) {
  text = trim(text);
  if (text.empty() || text.size() > 64) return std::nullopt;
  size_t slash = text.find('/'), width = 1;
  if (slash == std::string_view::npos) {
    slash = text.find(" per ");
    width = 5;
  }
  if (slash == std::string_view::npos) return find_power(text);
  const auto above = find_power(text.substr(0, slash)),
             below = find_power(text.substr(slash + width));
  if (!above || !below || below->factor == 0) return std::nullopt;
  return Unit{above->dimension + "/" + below->dimension, above->factor / below->factor};
}

}  // namespace tessera::rl
