#include "trainer/datasets.h"

namespace tessera::trainer {

Datasets load_datasets(const TrainerConfig& config, const data::Share& share, bool show_progress) {
  Datasets result;
  const std::filesystem::path folder = config.model.tokenizer_folder();
  result.tokenizer = std::make_unique<data::Tokenizer>(data::Tokenizer::load(folder));
  result.chat_template = data::ChatTemplate::load_if_present(folder);
  const auto open = [&](const std::vector<data::SourceConfig>& sources) {
    return std::make_unique<data::Dataset>(sources, config.data, *result.tokenizer,
                                           result.chat_template ? &*result.chat_template : nullptr, config.seed,
                                           std::filesystem::path(config.output) / "cache", share, show_progress);
  };
  result.train = open(config.data.train);
  if (!config.data.validation.empty()) result.validation = open(config.data.validation);
  return result;
}

}  // namespace tessera::trainer
