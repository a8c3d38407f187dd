#include "pipeline/pipeline.h"

#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "model/checkpoint_export.h"
#include "parallel/text_exchange.h"
#include "pipeline/report.h"
#include "pipeline/sampling.h"
#include "pipeline/selection.h"
#include "rl/reinforcement.h"
#include "trainer/trainer.h"

namespace tessera::pipeline {

namespace fs = std::filesystem;
using nlohmann::json;
using trainer::TrainEnd;

Runner::Runner(const Pipeline& pipeline, RunOptions options, parallel::Communicator& world)
    : pipeline_(pipeline), options_(std::move(options)), world_(world) {}

TrainEnd Runner::run() {
  prepare();
  Report report{pipeline_.name, {}};
  const fs::path output = pipeline_.output;
  if (pipeline_.report)
    report.rows.push_back({"start", "", {}, evaluate("start", pipeline_.model, pipeline_.parallel, pipeline_.model.path, output / "start.json"), {}});
  for (const Stage& stage : pipeline_.stages) {
    const json record = run_stage(stage);
    if (record.is_null()) return TrainEnd::kStopped;
    ReportRow row{stage.name, stage.task, record, {}, stage.folder() / "metrics.jsonl"};
    if (pipeline_.report && stage.trains()) {
      const trainer::ModelSource model{.path = stage.exported_path(), .config = nullptr, .tokenizer = {}, .lora = std::nullopt};
      row.evaluation = evaluate(stage.name, model, stage.config.parallel, products_.at(stage.name), stage.folder() / "evaluation.json");
    }
    report.rows.push_back(std::move(row));
  }
  (void)on_first("writing the report", [&] {
    write_report(report, output);
    log::info("wrote ", (output / "report.md").string());
    return json();
  });
  return TrainEnd::kFinished;
}

void Runner::prepare() {
  (void)on_first("preparing the run folder", [&] {
    const fs::path output = pipeline_.output;
    if (options_.from_the_start)
      for (const char* name : {"stages", "start.json", "report.md", "report.json", "charts"}) fs::remove_all(output / name);
    make_directories(output);
    return json();
  });
}

json Runner::on_first(const char* doing, const std::function<json()>& work) {
  json result;
  if (world_.rank() == 0) {
    const auto busy = world_.announce(doing);
    try {
      result["value"] = work();
    } catch (const CheckpointError& error) {
      result = {{"damaged", error.what()}};
    } catch (const Error& error) {
      result = {{"error", error.what()}};
    }
  }
  result = json::parse(parallel::broadcast_text(world_, result.dump()));
  if (result.contains("damaged")) throw CheckpointError(result["damaged"].get<std::string>());
  if (result.contains("error")) throw ConfigError(result["error"].get<std::string>());
  return result["value"];
}

json Runner::run_stage(const Stage& stage) {
  const json from = origin(stage, products_);
  json record = on_first("looking for what is done", [&] { return read_record(stage, from); });
  if (!record.is_null()) {
    log::info("stage ", stage.name, ": done before");
  } else {
    log::info("stage ", stage.name, " (", stage.task, ")");
    record = from;
    record.update({{"stage", stage.name}, {"task", stage.task}, {"steps", 0}, {"seconds", 0.0}});
    (void)on_first("starting a stage", [&] {
      write_started(stage, from);
      return json();
    });
    if (stage.samples() && !sample(stage, record)) return {};
    if (stage.trains() && !train(stage, record)) return {};
    record = on_first("finishing a stage", [&] {
      record["product"] = hash_product(stage);
      write_done(stage, record);
      return record;
    });
  }
  products_[stage.name] = record.at("product").get<std::string>();
  return record;
}

bool Runner::sample(const Stage& stage, json& record) {
  Sampler sampler(*stage.sampling, world_);
  const fs::path parts = stage.folder() / "candidates";
  const auto candidates = sampler.collect(parts, stage.name, options_.show_progress, options_.stop_requested);
  if (candidates.stopped) {
    log::info("stopped as asked; resume with the same command");
    return false;
  }
  record["seconds"] = candidates.seconds;
  record["counts"] = on_first("selecting samples", [&] {
    const Selection selection = select(candidates.all, sampler.prompts(), stage.selection, sampler.chat(), stage.sampling->seed);
    std::string text;
    for (const auto& line : selection.lines) text += line + "\n";
    write_file_atomically(stage.samples_path(), text);
    log::info("stage ", stage.name, ": kept ", selection.counts["kept"].dump(), " of ",
              candidates.all.size(), " completions; dropped ", selection.counts["dropped"].dump());
    return selection.counts;
  });
  return true;
}

bool Runner::train(const Stage& stage, json& record) {
  const trainer::TrainOptions how{.resume = "auto", .recipe_yaml = stage.run_yaml, .recipe_keys = stage.run_keys,
                                  .show_progress = options_.show_progress, .stop_requested = options_.stop_requested};
  const TrainEnd end = stage.rl ? rl::Reinforcement(stage.config, *stage.rl, how, world_).train() : trainer::Trainer(stage.config, how, world_).train();
  if (end == TrainEnd::kStopped) return false;
  const double sampling_seconds = record["seconds"];
  record.update(on_first("exporting a model", [&] {
    export_model(stage);
    return summarise_metrics(stage.folder() / "metrics.jsonl");
  }));
  record["seconds"] = sampling_seconds + record["seconds"].get<double>();
  return true;
}

/// In float32: the next stage goes on from these very weights. An adapter is merged.
void Runner::export_model(const Stage& stage) {
  const fs::path target = stage.exported_path(), temporary = stage.folder() / ".exported.tmp";
  fs::remove_all(temporary);
  model::export_folder(stage.folder(), temporary, {.dtype = "float32", .weights = "plain", .merge_lora = true});
  fs::remove_all(target);
  fs::rename(temporary, target);
  sync_directory(stage.folder());
}

json Runner::evaluate(const std::string& title, const trainer::ModelSource& model, const parallel::ParallelConfig& parallel, const std::string& model_hash,
                      const fs::path& kept) {
  const ReportConfig& report = *pipeline_.report;
  const json of = {{"report", pipeline_.report_keys}, {"model", model_hash}, {"config", model.config}, {"seed", pipeline_.seed}};
  const json before = on_first("looking for an evaluation", [&]() -> json {
    if (!fs::exists(kept)) return {};
    const json read = json::parse(read_text_file(kept), nullptr, false);
    return read.is_object() && read.value("of", json()) == of ? read : json();
  });
  if (!before.is_null()) return before;
  rl::RlConfig rl;
  rl.rollouts_per_prompt = 1;
  rl.temperature = 0;
  rl.max_new_tokens = report.max_new_tokens;
  rl.generation_batch = report.generation_batch;
  rl.rewards = report.rewards;
  double weights = 0;
  for (const auto& reward : report.rewards) weights += reward.weight;
  const auto result = Sampler({model, parallel, report.data, rl, pipeline_.seed}, world_).evaluate("evaluating " + title, options_.show_progress);
  const json evaluation = {{"of", of}, {"accuracy", result.reward / weights}, {"mean_length", result.length}, {"prompts", result.prompts}};
  log::info(title, ": accuracy ", short_number(evaluation["accuracy"]), " on ", result.prompts, " prompts, mean length ", short_number(result.length));
  return on_first("keeping an evaluation", [&] {
    write_file_atomically(kept, evaluation.dump(2) + "\n");
    return evaluation;
  });
}

}  // namespace tessera::pipeline
