// Direct preference optimisation (DPO, arXiv 2305.18290): pairs of answers to one prompt, the chosen one made likelier than the
// rejected one, as measured against the model at the start. Both answers of a pair lie behind one copy of their prompt.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rl/policy_objective.h"
#include "trainer/learner.h"
#include "trainer/weight_snapshot.h"

namespace tessera::rl {

/// The section `dpo` of a recipe.
struct DpoConfig {
  double beta = 0.1;            // of the log-ratios
  double label_smoothing = 0;   // share of pairs that may be the wrong way round (conservative DPO)

  /// Throws ConfigError naming the key.
  void validate() const;
};

struct PreferencePair {
  std::vector<int32_t> prompt, chosen, rejected;
};

/// Lines {"prompt" or "messages", "chosen", "rejected"}: texts, or lists of messages that go on from the prompt. Throws ConfigError "file:line: ...".
[[nodiscard]] std::vector<PreferencePair> read_pairs(const std::vector<data::SourceConfig>& sources, const data::Tokenizer& tokenizer,
                                                     const data::ChatTemplate* chat_template, std::string& hash);

/// Sums over pairs.
struct PairStatistics {
  double pairs = 0, right = 0, chosen = 0, rejected = 0;  // rewards: beta times the log-ratio to the reference
};

/// Micro-batches of pairs: completion 2 i is chosen, 2 i + 1 rejected.
class PairObjective final : public trainer::Objective {
 public:
  /// `pairs`: of the whole step over all ranks. `batches` must outlive it.
  PairObjective(const DpoConfig& config, int64_t pairs, const std::vector<PolicyBatch>& batches) : config_(config), pairs_(pairs), batches_(batches) {}

  /// Per pair: -(1 - s) log sigmoid(m) - s log sigmoid(-m), m = beta ((log p - reference) of chosen less that of rejected), eq. 7.
  double weigh(size_t microbatch, const float* log_probs, const float* entropies, float* weights) override;
  /// Of all ranks. Collective.
  [[nodiscard]] PairStatistics collect(parallel::Communicator& world) const;

 private:
  const DpoConfig& config_;
  int64_t pairs_;
  const std::vector<PolicyBatch>& batches_;
  PairStatistics statistics_;
};

class Preference final {
 public:
  /// Collective over `world`.
  Preference(trainer::TrainerConfig config, DpoConfig dpo, trainer::TrainOptions options, parallel::Communicator& world);

  /// As Trainer::train.
  trainer::TrainEnd train();

 private:
  struct Validation {
    double loss = 0, accuracy = 0;
  };
  void load();
  /// This rank's share of the pairs with these numbers, with the reference's log-probabilities.
  RolloutBatch make_batch(const std::vector<PreferencePair>& pairs, const std::vector<int64_t>& numbers, int64_t step);
  Validation evaluate();

  trainer::Learner learner_;
  const trainer::TrainerConfig& config_;
  DpoConfig dpo_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::optional<data::ChatTemplate> chat_template_;
  std::vector<PreferencePair> pairs_, validation_;
  std::string hash_;
  std::unique_ptr<trainer::WeightSnapshot> reference_;
};

}  // namespace tessera::rl
