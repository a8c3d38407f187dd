// What a stage leaves beside its run so that the pipeline can be resumed: started.json, written before its first step, and done.json,
// written last. Both say what the stage was made from; if that changes, the stage is not silently used again.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/config.h"

namespace tessera::pipeline {

/// Hash of what each finished stage has made, by name.
using Products = std::map<std::string, std::string>;

/// The stage's keys and its inputs.
[[nodiscard]] nlohmann::json origin(const Stage& stage, const Products& products);

/// The stage's record if it is done, null otherwise. Throws ConfigError, naming the stage, what has changed and the remedy, if a stage that is
/// done or that has begun was made from something else than `origin`.
[[nodiscard]] nlohmann::json read_record(const Stage& stage, const nlohmann::json& origin);
void write_started(const Stage& stage, const nlohmann::json& origin);
void write_done(const Stage& stage, const nlohmann::json& record);

/// Of the exported weights, or of the samples of a stage that does not train.
[[nodiscard]] std::string hash_product(const Stage& stage);

/// steps, seconds, and where they apply reward_first, reward_last (means over a tenth of the steps, ten at most), length_last, loss_last; from
/// the stage's metrics.jsonl.
[[nodiscard]] nlohmann::json summarise_metrics(const std::filesystem::path& metrics);

}  // namespace tessera::pipeline
