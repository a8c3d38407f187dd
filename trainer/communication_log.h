// RUN/communication/rank-00000.jsonl: what each rank sent in each step, and the rows of each exchange of tokens, for
// comparison with a dry run, which can replay the latter.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moe/dispatcher.h"
#include "parallel/traffic.h"

namespace tessera::trainer {

using AxisTraffic = std::map<std::string, parallel::Traffic>;

struct CommunicationRecord {
  int64_t step = 0;
  AxisTraffic traffic;                  // of this rank, in this step
  std::vector<moe::Passage> passages;  // in order, backward passes' recomputation included
};

/// What was sent between two readings of a ledger, without axes that were silent.
[[nodiscard]] AxisTraffic traffic_since(const AxisTraffic& before, const AxisTraffic& now);

/// {axis: {operations, bytes}}, with `seconds` also {active_seconds, exposed_seconds}.
[[nodiscard]] nlohmann::json to_json(const AxisTraffic& traffic, bool seconds);

class CommunicationLog final {
 public:
  /// Drops records of steps after `step`.
  CommunicationLog(const std::filesystem::path& run, int rank, int64_t step);
  void write(const CommunicationRecord& record) const;
  /// All records of a rank. Throws ConfigError when the run has none, naming the key that makes them.
  [[nodiscard]] static std::vector<CommunicationRecord> read(const std::filesystem::path& run, int rank);

 private:
  std::filesystem::path path_;
};

}  // namespace tessera::trainer
