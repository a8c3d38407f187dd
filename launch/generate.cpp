#include <chrono>
#include <iostream>

#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "data/unicode.h"
#include "inference/engine.h"
#include "launch/generation_options.h"

namespace tessera::launch {

namespace {

void report_speed(const std::vector<inference::Completion>& completions, double seconds) {
  size_t tokens = 0;
  for (const auto& completion : completions) tokens += completion.tokens.size();
  char rate[32];
  std::snprintf(rate, sizeof rate, "%.1f", static_cast<double>(tokens) / seconds);
  log::info("generated ", tokens, " tokens, ", rate, " tokens/s");
}

}  // namespace

Command generate_command(CLI::App& cli) {
  struct Options {
    ModelOptions model;
    std::string prompt, input, output;
    inference::SamplingConfig sampling;
    int64_t batch = 32;
    bool plain_content = false;
    bool no_draft = false;
  };
  auto options = std::make_shared<Options>();
  add_model_options(cli, options->model);
  auto* prompt = cli.add_option("--prompt", options->prompt, "a question; asked as a chat if the model has a template");
  cli.add_option("--input", options->input, "JSONL with tokens, prompt or messages")->excludes(prompt);
  cli.add_option("--output", options->output, "JSONL with tokens, text and finish_reason; standard output if left out");
  cli.add_flag("--plain-content", options->plain_content, "special tokens inside of messages are text");
  add_sampling_options(cli, options->sampling, options->batch);
  cli.add_flag("--no-draft", options->no_draft, "without drafts by the model's MTP module; the text is the same");
  return [options](App& app) {
    options->sampling.validate();
    if (!data::is_valid_utf8(options->prompt)) throw ConfigError("--prompt is not UTF-8");
    if (options->prompt.empty() == options->input.empty()) throw ConfigError("give either --prompt TEXT or --input FILE");
    std::vector<JsonLine> lines;
    if (!options->input.empty()) lines = read_jsonl(options->input);
    LoadedModel loaded = load_for_inference(app, options->model);
    loaded.plain_content = options->plain_content;
    if (options->input.empty()) {
      data::Json line;
      if (loaded.chat_template) {
        line["messages"] = data::Json::array({{{"role", "user"}, {"content", options->prompt}}});
      } else {
        line["prompt"] = options->prompt;
      }
      lines.push_back({line, "--prompt"});
    }
    options->sampling.stop_ids = stop_ids(loaded);
    inference::Engine engine(*loaded.model, {.max_batch = options->batch, .draft = !options->no_draft, .tokenizer = &loaded.tokenizer});
    const auto results = share_out(app, static_cast<int64_t>(lines.size()), [&](int64_t begin, int64_t end) {
      std::vector<std::vector<int32_t>> prompts;
      for (int64_t i = begin; i < end; ++i)
        prompts.push_back(prompt_tokens(lines[static_cast<size_t>(i)].value, loaded, "prompt", true, lines[static_cast<size_t>(i)].where));
      Progress progress("generating", end - begin, "prompts", app.first() && !app.quiet && lines.size() > 1);
      const auto start = std::chrono::steady_clock::now();
      const auto completions = engine.generate(prompts, options->sampling, static_cast<uint64_t>(begin),
                                               [&](int64_t done) { progress.update(done); });
      progress.finish();
      report_speed(completions, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      if (engine.drafts().made > 0) log::info("drafts: ", engine.drafts().made, ", accepted ", engine.drafts().accepted);
      std::vector<std::string> texts;
      for (const auto& c : completions)
        texts.push_back(data::Json{{"tokens", c.tokens}, {"text", loaded.tokenizer.decode(c.tokens)}, {"finish_reason", c.finish_reason}}.dump());
      return texts;
    });
    if (!app.first()) return;
    if (options->input.empty() && options->output.empty()) {
      std::cout << data::Json::parse(results.at(0))["text"].get<std::string>() << "\n";
    } else {
      write_lines(options->output, results);
    }
  };
}

}  // namespace tessera::launch
