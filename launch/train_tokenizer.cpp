#include "data/train_tokenizer.h"

#include <ATen/Parallel.h>

#include "core/log.h"
#include "core/text.h"
#include "launch/app.h"

namespace tessera::launch {

Command train_tokenizer_command(CLI::App& cli) {
  auto options = std::make_shared<data::TrainTokenizerOptions>();
  cli.add_option("--input", options->inputs, "text or JSONL files, or folders of them")->required();
  cli.add_option("--vocab", options->vocab_size, "number of tokens, with the special ones")->required()->check(CLI::Range(257, 1 << 24));
  cli.add_option("--output", options->output, "folder for tokenizer.json and tokenizer_config.json")->required();
  cli.add_option("--pattern", options->pattern, "how text is split into words: deepseek, llama3 or gpt2")
      ->capture_default_str()
      ->check(CLI::IsMember({"deepseek", "llama3", "gpt2"}));
  cli.add_option("--min-frequency", options->min_frequency, "a pair that occurs less often is not merged")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  cli.add_option("--bos", options->bos, "special token that begins a text; \"\" = none")->capture_default_str();
  cli.add_option("--eos", options->eos, "special token that ends a text; \"\" = none")->capture_default_str();
  cli.add_option("--pad", options->pad, "special token that pads a batch; \"\" = none")->capture_default_str();
  cli.add_option("--special", options->special_tokens, "more special tokens, such as those of a chat template");
  return [options](App& app) {
    if (!app.first()) return;
    options->threads = at::get_num_threads();
    const auto stats = data::train_tokenizer(*options);
    if (stats.vocab_size < options->vocab_size) {
      log::warn("the vocabulary has ", stats.vocab_size, " tokens, not ", options->vocab_size,
                ": no more pair occurs ", options->min_frequency, " times; give more text or a lower --min-frequency");
    }
    log::info("wrote ", options->output.string(), ": ", stats.vocab_size, " tokens from ", format_bytes(stats.bytes), ", ",
              stats.words, " words, ", stats.different_words, " different ones");
  };
}

}  // namespace tessera::launch
