#include "trainer/run_folder.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <random>

#include "core/error.h"
#include "core/file.h"
#include "parallel/text_exchange.h"

namespace tessera::trainer {

using nlohmann::json;

RunFolder::RunFolder(const TrainerConfig& config, parallel::Communicator& world)
    : path_(config.output), writer_(world.rank() == 0), use_tensorboard_(config.log.tensorboard) {
  std::string problem, nonce;
  if (writer_) {
    try {
      make_directories(path_);
      nonce = std::to_string(std::random_device{}()) + "." + std::to_string(std::random_device{}());
      write_file_atomically(path_ / ".nonce", nonce);
    } catch (const Error& error) {
      problem = error.what();
    }
  }
  const json first = json::parse(parallel::broadcast_text(world, json{{"nonce", nonce}, {"problem", problem}}.dump()));
  if (first["problem"] != "") throw ConfigError("output: " + first["problem"].get<std::string>());
  std::string seen;
  if (std::filesystem::exists(path_ / ".nonce")) seen = read_text_file(path_ / ".nonce");
  const auto all = parallel::all_gather_text(world, seen);
  for (size_t rank = 0; rank < all.size(); ++rank)
    if (all[rank] != first["nonce"])
      throw ConfigError("output = " + config.output + ": rank " + std::to_string(rank) +
                        " does not see the folder that rank 0 made; put it on a file system that all nodes share");
  if (writer_) std::filesystem::remove(path_ / ".nonce");
}

void RunFolder::begin(int64_t step) {
  if (!writer_) return;
  const auto path = path_ / "metrics.jsonl";
  std::string kept;
  if (step > 0 && std::filesystem::exists(path)) {
    std::istringstream lines(read_text_file(path));
    for (std::string line; std::getline(lines, line);) {
      const json parsed = json::parse(line, nullptr, false);
      if (parsed.is_object() && parsed.value("step", int64_t{0}) >= 1 && parsed.value("step", int64_t{0}) <= step) kept += line + "\n";
    }
  }
  write_file_atomically(path, kept);
  if (use_tensorboard_) tensorboard_ = std::make_unique<TensorboardWriter>(path_ / "tensorboard");
}

void RunFolder::write_metrics(const json& metrics) {
  if (!writer_) return;
  std::ofstream out(path_ / "metrics.jsonl", std::ios::app);
  out << metrics.dump() << "\n";
  out.flush();
  if (!out) throw Error("cannot write " + (path_ / "metrics.jsonl").string() + ": " + std::strerror(errno) + "; free some space");
  if (!tensorboard_) return;
  const auto step = metrics.at("step").get<int64_t>();
  for (const auto& [key, value] : metrics.items())
    if (value.is_number() && key != "step") tensorboard_->scalar("train/" + key, step, value.get<float>());
  tensorboard_->flush();
}

void RunFolder::update_run_json(const json& fields) {
  if (!writer_) return;
  run_.update(fields);
  write_file_atomically(path_ / "run.json", run_.dump(2) + "\n");
}

}  // namespace tessera::trainer
