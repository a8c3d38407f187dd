#include <cmath>

#include "core/error.h"
#include "inference/engine.h"
#include "launch/app.h"

namespace tessera::launch {

Command score_command(CLI::App& cli) {
  struct Options {
    ModelOptions model;
    std::string input, output;
  };
  auto options = std::make_shared<Options>();
  add_model_options(cli, options->model);
  cli.add_option("--input", options->input, "JSONL with tokens, text or messages")->required();
  cli.add_option("--output", options->output, "JSONL with tokens and logprobs; standard output if left out");
  return [options](App& app) {
    const auto lines = read_jsonl(options->input);
    LoadedModel loaded = load_for_inference(app, options->model);
    inference::Engine engine(*loaded.model);
    write_lines(app.first() ? options->output : std::string("/dev/null"),
                share_out(app, static_cast<int64_t>(lines.size()), [&](int64_t begin, int64_t end) {
      std::vector<std::vector<int32_t>> sequences;
      for (int64_t i = begin; i < end; ++i)
        sequences.push_back(prompt_tokens(lines[static_cast<size_t>(i)].value, loaded, "text", false, lines[static_cast<size_t>(i)].where));
      std::vector<std::string> results;
      const auto scores = engine.score(sequences);
      for (size_t i = 0; i < scores.size(); ++i) {
        data::Json logprobs = data::Json::array();
        for (float value : scores[i]) logprobs.push_back(std::isnan(value) ? data::Json(nullptr) : data::Json(value));
        results.push_back(data::Json{{"tokens", sequences[i]}, {"logprobs", logprobs}}.dump());
      }
      return results;
    }));
  };
}

}  // namespace tessera::launch
