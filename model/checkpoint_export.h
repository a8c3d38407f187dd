// A checkpoint as a Hugging Face folder: `tessera export`, and the stages of a pipeline that hand their model on.
#pragma once

#include <filesystem>
#include <string>

namespace tessera::model {

struct ExportOptions {
  std::string dtype = "auto";     // auto: each tensor as in the base model | float32 | bfloat16
  std::string weights = "plain";  // plain | fp8-blockwise
  bool merge_lora = false;        // the whole model with the adapter merged in, not the adapter
};

/// `given` is a checkpoint, a run (its newest whole checkpoint is taken), or a model or PEFT folder. Writes into `output`, which is
/// made. Throws ConfigError, CheckpointError.
void export_folder(const std::filesystem::path& given, const std::filesystem::path& output, const ExportOptions& options);

}  // namespace tessera::model
