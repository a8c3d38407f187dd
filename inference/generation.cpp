#include "inference/generation.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "core/error.h"

namespace tessera::inference {

namespace {

// Prompt tokens that go through the model at a time.
constexpr int64_t kTokensAtOnce = 2048;

int32_t likeliest(const at::Tensor& logits, int64_t row) {
  const float* values = logits.const_data_ptr<float>() + row * logits.size(1);
  return static_cast<int32_t>(std::max_element(values, values + logits.size(1)) - values);
}

}  // namespace

at::Tensor int_tensor(std::vector<int32_t>& values) {
  return at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kInt);
}

void Flat::add(const std::vector<int32_t>& sequence) {
  segments.push_back({static_cast<int64_t>(tokens.size()), static_cast<int64_t>(sequence.size()), 0, -1});
  tokens.insert(tokens.end(), sequence.begin(), sequence.end());
  for (size_t i = 0; i < sequence.size(); ++i) positions.push_back(static_cast<int32_t>(i));
}

Generation::Generation(model::CausalLM& model, int64_t slots, bool draft, const std::vector<std::vector<int32_t>>& prompts,
                       const SamplingConfig& sampling, uint64_t first_sequence, const std::function<void(int64_t)>& on_done)
    : model_(model), prompts_(prompts), sampling_(sampling), first_sequence_(first_sequence), on_done_(on_done),
      draft_(draft && model.config().num_mtp_modules > 0), cache_(model.make_cache(slots, draft_)), results_(prompts.size()) {
  for (int64_t slot = slots; slot-- > 0;) free_slots_.push_back(slot);
}

std::vector<Completion> Generation::run() {
  while (!running_.empty() || next_prompt_ < prompts_.size()) {
    start_prompts();
    if (!running_.empty()) advance();
  }
  return std::move(results_);
}

bool Generation::sample(Running& sequence, const at::Tensor& logits, int64_t row) {
  Completion& result = results_[static_cast<size_t>(sequence.prompt)];
  sequence.next = sample_token(logits.data_ptr<float>() + row * logits.size(1), logits.size(1), sampling_,
                               first_sequence_ + static_cast<uint64_t>(sequence.prompt), static_cast<uint32_t>(result.tokens.size()));
  if (std::find(sampling_.stop_ids.begin(), sampling_.stop_ids.end(), sequence.next) != sampling_.stop_ids.end()) {
    result.finish_reason = "stop";
    return false;
  }
  result.tokens.push_back(sequence.next);
  const auto length = static_cast<int64_t>(prompts_[static_cast<size_t>(sequence.prompt)].size() + result.tokens.size());
  if (static_cast<int64_t>(result.tokens.size()) < sampling_.max_new_tokens && length < model_.config().max_position_embeddings) return true;
  result.finish_reason = "length";
  return false;
}

void Generation::end(const Running& sequence) {
  free_slots_.push_back(sequence.slot);
  ++done_;
  if (on_done_) on_done_(done_);
}

void Generation::start_prompts() {
  Flat flat;
  std::vector<Running> started;
  std::vector<int64_t> slots;
  while (!free_slots_.empty() && next_prompt_ < prompts_.size()) {
    const auto& prompt = prompts_[next_prompt_];
    TESSERA_CHECK(!prompt.empty(), "empty prompt");
    if (!flat.tokens.empty() && static_cast<int64_t>(flat.tokens.size() + prompt.size()) > kTokensAtOnce) break;
    flat.add(prompt);
    started.push_back({static_cast<int64_t>(next_prompt_++), free_slots_.back()});
    slots.push_back(free_slots_.back());
    free_slots_.pop_back();
  }
  if (started.empty()) return;
  at::Tensor states;
  const at::Tensor logits = model_.prefill(int_tensor(flat.tokens), int_tensor(flat.positions), flat.segments, slots, cache_, draft_ ? &states : nullptr);
  std::vector<bool> alive;
  for (size_t i = 0; i < started.size(); ++i) alive.push_back(sample(started[i], logits, static_cast<int64_t>(i)));
  if (draft_) {
    std::vector<int32_t> shifted(flat.tokens.begin() + 1, flat.tokens.end());
    shifted.push_back(0);
    for (size_t i = 0; i < started.size(); ++i)
      shifted[static_cast<size_t>(flat.segments[i].start + flat.segments[i].length - 1)] = started[i].next;
    const at::Tensor drafts = model_.draft_prefill(int_tensor(shifted), states, int_tensor(flat.positions), flat.segments, slots, cache_);
    for (size_t i = 0; i < started.size(); ++i) started[i].draft = likeliest(drafts, static_cast<int64_t>(i));
  }
  for (size_t i = 0; i < started.size(); ++i) {
    if (alive[i]) {
      running_.push_back(started[i]);
    } else {
      end(started[i]);
    }
  }
}

void Generation::advance() {
  const int64_t rows_each = draft_ ? 2 : 1;
  std::vector<int32_t> tokens;
  std::vector<int64_t> slots, lengths;
  for (const Running& r : running_) {
    lengths.push_back(cache_.length(r.slot));
    for (int64_t k = 0; k < rows_each; ++k) {
      tokens.push_back(k == 0 ? r.next : r.draft);
      slots.push_back(r.slot);
    }
  }
  at::Tensor states;
  const at::Tensor logits = model_.decode(int_tensor(tokens), slots, cache_, draft_ ? &states : nullptr);
  std::vector<Running> alive;
  model::DraftRows rows;  // for the MTP module: each accepted token with the state before it
  std::vector<int64_t> last;
  for (size_t i = 0; i < running_.size(); ++i) {
    Running r = running_[i];
    const int64_t first = static_cast<int64_t>(i) * rows_each;
    bool goes_on = true, hit = true;
    int64_t taken = 0;
    for (; taken < rows_each && goes_on && hit; ++taken) {
      const int32_t expected = r.draft;
      goes_on = sample(r, logits, first + taken);
      hit = r.next == expected;
      rows.add(r.next, first + taken, lengths[i] + taken, r.slot);
    }
    drafts_.made += draft_ ? 1 : 0;
    drafts_.accepted += taken - 1;
    cache_.set_length(r.slot, lengths[i] + taken);
    if (goes_on) {
      alive.push_back(r);
      last.push_back(rows.size() - 1);
    } else {
      rows.drop(taken);
      end(r);
    }
  }
  running_ = std::move(alive);
  if (!draft_ || running_.empty()) return;
  const at::Tensor drafts = model_.draft_decode(rows, states, last, cache_);
  for (size_t i = 0; i < running_.size(); ++i) running_[i].draft = likeliest(drafts, static_cast<int64_t>(i));
}

}  // namespace tessera::inference
