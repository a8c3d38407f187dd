// What the subcommands share: the process's place among the ranks, models for inference, JSONL in and out.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/chat_template.h"
#include "data/json.h"
#include "data/prompt.h"
#include "data/tokenizer.h"
#include "model/causal_lm.h"
#include "parallel/communicator.h"
#include "parallel/device.h"

namespace tessera::launch {

/// The running process. MPI is up only under mpirun.
struct App {
  parallel::Communicator& world;
  bool quiet = false;
  std::function<bool()> stop_requested;
  std::function<void(double)> set_timeout;  // communication.timeout_seconds
  const parallel::DeviceRegistry& devices;

  [[nodiscard]] bool first() const { return world.rank() == 0; }
};

/// A subcommand: registers its options on `cli` and returns what to run.
using Command = std::function<void(App&)>;
Command train_command(CLI::App& cli);
Command plan_command(CLI::App& cli);
Command prepare_command(CLI::App& cli);
Command inspect_command(CLI::App& cli);
Command tokenize_command(CLI::App& cli);
Command train_tokenizer_command(CLI::App& cli);
Command score_command(CLI::App& cli);
Command generate_command(CLI::App& cli);
Command eval_command(CLI::App& cli);
Command export_command(CLI::App& cli);
Command synthesize_command(CLI::App& cli);
Command doctor_command(CLI::App& cli);

/// A model folder opened for inference.
struct LoadedModel {
  std::unique_ptr<model::CausalLM> model;
  data::Tokenizer tokenizer;
  std::optional<data::ChatTemplate> chat_template;
  bool plain_content = false;  // special tokens inside of messages are text

  [[nodiscard]] data::PromptReader reader() const {
    return {tokenizer, chat_template ? &*chat_template : nullptr, model->config().vocab_size, plain_content};
  }
};
struct ModelOptions {
  std::string folder, device = "cpu", compute = "float32";
};
/// --model, --device, --compute.
void add_model_options(CLI::App& cli, ModelOptions& options);
/// Throws ConfigError.
[[nodiscard]] LoadedModel load_for_inference(const App& app, const ModelOptions& options);

/// Makes a device of a kind the process's own, with its kernels. Throws ConfigError when there is none or it has no kernels.
[[nodiscard]] c10::Device use_device(const App& app, const std::string& kind);

/// Token ids of a line's "tokens", `text_key` or "messages". Throws ConfigError "where: ...".
[[nodiscard]] std::vector<int32_t> prompt_tokens(const data::Json& line, const LoadedModel& loaded, const char* text_key,
                                                 bool add_generation_prompt, const std::string& where);

using data::JsonLine;
using data::read_jsonl;

/// Deals `count` items to ranks, runs `work` on this rank's items [begin, end), and hands rank 0 all resulting lines in
/// order (other ranks get none). Collective.
[[nodiscard]] std::vector<std::string> share_out(App& app, int64_t count,
                                                 const std::function<std::vector<std::string>(int64_t begin, int64_t end)>& work);

/// Writes lines to a file atomically, or to standard output when `path` is empty.
void write_lines(const std::filesystem::path& path, const std::vector<std::string>& lines);

}  // namespace tessera::launch
