#include "pipeline/stage_record.h"

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "model/hf_folder.h"
#include "trainer/resume.h"

namespace tessera::pipeline {

namespace {

using nlohmann::json;
using Keys = std::map<std::string, std::string>;

/// The first key with another value, as "KEY was A and is B"; empty if there is none.
std::string difference(const Keys& before, const Keys& now) {
  Keys all = before;
  all.insert(now.begin(), now.end());
  const auto value = [](const Keys& keys, const std::string& key) { return keys.count(key) == 0 ? "(absent)" : keys.at(key); };
  for (const auto& [key, ignored] : all) {
    const bool matters = key == "train.steps" || !trainer::is_harmless(key);
    if (matters && value(before, key) != value(now, key)) return key + " was " + value(before, key) + " and is " + value(now, key);
  }
  return "";
}

[[noreturn]] void refuse(const Stage& stage, bool done, const std::string& what) {
  throw ConfigError("stage " + stage.name + (done ? " is done, and " : " has begun, and ") + what + "; delete " + stage.folder().string() +
                    " to run the stage again" + (done ? ", or undo the change" : " from its start, or undo the change"));
}

void check_origin(const Stage& stage, bool done, const json& before, const json& now) {
  const auto old_inputs = before.at("inputs").get<Keys>(), inputs = now.at("inputs").get<Keys>();
  // A training run that has begun watches over its own keys, and allows more of them to change.
  if (done || stage.samples()) {
    const std::string changed = difference(before.at("keys").get<Keys>(), now.at("keys").get<Keys>());
    if (!changed.empty()) refuse(stage, done, changed);
  }
  for (const auto& [name, hash] : inputs) {
    const auto old = old_inputs.find(name);
    if (old != old_inputs.end() && old->second != hash) refuse(stage, done, "what stage " + name + " made, which it read, has changed since");
  }
}

double mean(const std::vector<json>& rows, const char* key, size_t begin, size_t end) {
  double sum = 0;
  for (size_t i = begin; i < end; ++i) sum += rows[i].value(key, 0.0);
  return sum / static_cast<double>(end - begin);
}

}  // namespace

json origin(const Stage& stage, const Products& products) {
  json inputs = json::object();
  for (const auto& name : stage.inputs) inputs[name] = products.at(name);
  return {{"keys", stage.keys}, {"inputs", std::move(inputs)}};
}

json read_record(const Stage& stage, const json& origin) {
  for (const char* name : {"done.json", "started.json"}) {
    const auto path = stage.folder() / name;
    if (!std::filesystem::exists(path)) continue;
    const json record = json::parse(read_text_file(path), nullptr, false);
    if (record.is_discarded()) throw ConfigError(path.string() + " is damaged; delete " + stage.folder().string() + " to run the stage again");
    const bool done = name == std::string_view("done.json");
    check_origin(stage, done, record, origin);
    return done ? record : json();
  }
  return {};
}

void write_started(const Stage& stage, const json& origin) {
  make_directories(stage.folder());
  write_file_atomically(stage.folder() / "started.json", origin.dump(2) + "\n");
}

void write_done(const Stage& stage, const json& record) { write_file_atomically(stage.folder() / "done.json", record.dump(2) + "\n"); }

std::string hash_product(const Stage& stage) { return stage.trains() ? model::hash_weights(stage.exported_path()) : hash_file(stage.samples_path()); }

json summarise_metrics(const std::filesystem::path& metrics) {
  std::vector<json> rows;
  std::istringstream lines(read_text_file(metrics));
  for (std::string line; std::getline(lines, line);) rows.push_back(json::parse(line));
  if (rows.empty()) return {{"steps", 0}, {"seconds", 0.0}};
  json summary = {{"steps", rows.back().at("step")}, {"loss_last", rows.back().value("loss", 0.0)}};
  double seconds = 0;
  for (const auto& row : rows)
    seconds += row.value("step_seconds", 0.0) + row.value("rollout_seconds", 0.0) + row.value("reward_seconds", 0.0) + row.value("save_seconds", 0.0);
  // Not every step has a line.
  summary["seconds"] = seconds * summary["steps"].get<double>() / static_cast<double>(rows.size());
  if (!rows.front().contains("reward")) return summary;
  const size_t some = std::clamp<size_t>(rows.size() / 10, 1, 10);
  summary["reward_first"] = mean(rows, "reward", 0, some);
  summary["reward_last"] = mean(rows, "reward", rows.size() - some, rows.size());
  summary["length_last"] = mean(rows, "completion_length", rows.size() - some, rows.size());
  return summary;
}

}  // namespace tessera::pipeline
