// A recipe's tokenizer, template and data sets.
#pragma once

#include <memory>
#include <optional>

#include "data/chat_template.h"
#include "data/dataset.h"
#include "data/tokenizer.h"
#include "trainer/config.h"

namespace tessera::trainer {

struct Datasets {
  std::unique_ptr<data::Tokenizer> tokenizer;
  std::optional<data::ChatTemplate> chat_template;
  std::unique_ptr<data::Dataset> train, validation;  // validation may be null
};

/// Collective over `share`. Stores are cached in the output folder's `cache/`.
[[nodiscard]] Datasets load_datasets(const TrainerConfig& config, const data::Share& share, bool show_progress);

}  // namespace tessera::trainer
