#include "trainer/communication_log.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/file.h"

namespace tessera::trainer {

using nlohmann::json;

namespace {

std::filesystem::path path_of(const std::filesystem::path& run, int rank) {
  char name[32];
  std::snprintf(name, sizeof name, "rank-%05d.jsonl", rank);
  return run / "communication" / name;
}

std::vector<CommunicationRecord> parse(const std::string& text, const std::string& where) {
  std::vector<CommunicationRecord> records;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) try {
      const json parsed = json::parse(line);
      CommunicationRecord record;
      record.step = parsed.at("step");
      for (const auto& [axis, t] : parsed.at("communication").items()) record.traffic[axis] = {.operations = t.at("operations"), .bytes = t.at("bytes")};
      for (const auto& p : parsed.at("passages")) record.passages.push_back({p.at(0), p.at(1)});
      records.push_back(std::move(record));
    } catch (const json::exception& error) {
      throw ConfigError(detail::concat(where, ": line ", records.size() + 1, " is no record of communication: ", error.what()));
    }
  return records;
}

json to_line(const CommunicationRecord& record) {
  json passages = json::array();
  for (const auto& p : record.passages) passages.push_back({p.departing, p.arriving});
  return {{"step", record.step}, {"communication", to_json(record.traffic, false)}, {"passages", passages}};
}

}  // namespace

AxisTraffic traffic_since(const AxisTraffic& before, const AxisTraffic& now) {
  AxisTraffic between;
  for (const auto& [axis, traffic] : now) {
    const auto earlier = before.find(axis);
    const parallel::Traffic in_between = traffic.since(earlier == before.end() ? parallel::Traffic{} : earlier->second);
    if (in_between.operations > 0) between.emplace(axis, in_between);
  }
  return between;
}

json to_json(const AxisTraffic& traffic, bool seconds) {
  json axes = json::object();
  for (const auto& [axis, t] : traffic) {
    axes[axis] = {{"operations", t.operations}, {"bytes", t.bytes}};
    if (seconds) axes[axis].update({{"active_seconds", t.active_seconds}, {"exposed_seconds", t.exposed_seconds}});
  }
  return axes;
}

CommunicationLog::CommunicationLog(const std::filesystem::path& run, int rank, int64_t step) : path_(path_of(run, rank)) {
  make_directories(path_.parent_path());
  std::string kept;
  if (step > 0 && std::filesystem::exists(path_))
    for (const auto& record : parse(read_text_file(path_), path_.string()))
      if (record.step <= step) kept += to_line(record).dump() + "\n";
  write_file_atomically(path_, kept);
}

void CommunicationLog::write(const CommunicationRecord& record) const {
  std::ofstream out(path_, std::ios::app);
  out << to_line(record).dump() << "\n";
  out.flush();
  if (!out) throw Error("cannot write " + path_.string() + ": " + std::strerror(errno) + "; free some space");
}

std::vector<CommunicationRecord> CommunicationLog::read(const std::filesystem::path& run, int rank) {
  const auto path = path_of(run, rank);
  if (!std::filesystem::exists(path))
    throw ConfigError(path.string() + " does not exist; a run with log.communication = true of at least " + std::to_string(rank + 1) + " ranks writes it");
  return parse(read_text_file(path), path.string());
}

}  // namespace tessera::trainer
