// Small helpers for messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

/// The candidate nearest to `name` by edit distance, or "" when none is near enough to be a likely typo.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

/// "1.5 GiB", "312 MiB", "17 B".
std::string format_bytes(int64_t bytes);

/// Four significant digits.
std::string short_number(double value);

/// "1h02m", "3m20s", "4.1s".
std::string format_seconds(double seconds);

/// "rank 3", "ranks 0-2, 5"; sorts them.
std::string name_ranks(std::vector<int> ranks);

/// Joins with ", ".
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");

}  // namespace tessera
