#include "inference/generation.h"

#include <ATen/ops/argmax.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/accelerator.h"

namespace tessera::inference {

namespace {

int32_t likeliest(const at::Tensor& logits, int64_t row) {
  if (kernels::accelerator_of(logits) != nullptr) return static_cast<int32_t>(logits.select(0, row).argmax().item<int64_t>());
  const float* values = logits.const_data_ptr<float>() + row * logits.size(1);
  return static_cast<int32_t>(std::max_element(values, values + logits.size(1)) - values);
}

/// Appends `count` rows of a pass's choices.
void append_rows(const moe::LayerChoices& choices, int64_t first, int64_t count, ExpertChoices& to) {
  for (const auto& [layer, experts] : choices) {
    const int32_t* row = experts.const_data_ptr<int32_t>() + first * experts.size(1);
    auto& list = to[layer];
    for (int64_t i = 0; i < count * experts.size(1); ++i) list.push_back(static_cast<int16_t>(row[i]));
  }
}

bool can_draft(const ModelLayout& layout, const EngineConfig& config, const std::vector<Request>& requests) {
  if (!config.draft || !layout.alone() || layout.stages.front().model->config().num_mtp_modules == 0) return false;
  // The module's row of a prompt's last token depends on what is drawn behind it, so samples cannot share it.
  return std::all_of(requests.begin(), requests.end(), [](const Request& r) { return r.samples.size() == 1; });
}

}  // namespace

Generation::Generation(const ModelLayout& layout, const EngineConfig& config, const std::vector<Request>& requests, const SamplingConfig& sampling,
                       const std::function<void(int64_t)>& on_done)
    : config_(config), requests_(requests), sampling_(sampling), on_done_(on_done), draft_(can_draft(layout, config, requests)),
      passes_(layout, draft_, config.record_experts) {
  TESSERA_CHECK(!(draft_ && config.record_experts));
  TESSERA_CHECK(config.max_batch > 0 && (sampling.stop_texts.empty() || config.tokenizer != nullptr));
  size_t samples = 0;
  for (const Request& request : requests) {
    TESSERA_CHECK(!request.prompt.empty(), "empty prompt");
    first_result_.push_back(samples);
    samples += request.samples.size();
  }
  results_.resize(samples);
}

std::vector<Completion> Generation::run() {
  while (true) {
    const auto chosen = choose_prompts();
    const auto anyone = passes_.any({!chosen.empty(), !chosen.empty() || !prompts_.empty() || !running_.empty()});
    if (!anyone[1]) return std::move(results_);
    if (anyone[0]) prefill_prompts(chosen);
    start_samples();
    advance();
  }
}

std::vector<size_t> Generation::choose_prompts() {
  int64_t free = room(), tokens = 0;
  for (const Prompt& prompt : prompts_) free -= static_cast<int64_t>(requests_[prompt.request].samples.size() - prompt.next_sample);
  std::vector<size_t> chosen;
  for (; next_request_ < requests_.size() && free > 0; ++next_request_) {
    const Request& request = requests_[next_request_];
    const auto length = static_cast<int64_t>(request.prompt.size());
    if (length > passes_.config().max_position_embeddings) {
      for (size_t i = 0; i < request.samples.size(); ++i) {
        results_[first_result_[next_request_] + i].finish_reason = "length";
        ++done_;
      }
      continue;
    }
    if (!chosen.empty() && tokens + length > kTokensAtOnce) break;
    tokens += length;
    free -= static_cast<int64_t>(request.samples.size());
    chosen.push_back(next_request_);
  }
  return chosen;
}

void Generation::prefill_prompts(const std::vector<size_t>& chosen) {
  Flat flat;
  std::vector<int64_t> sequences, last;
  for (size_t request : chosen) {
    flat.add(requests_[request].prompt);
    sequences.push_back(passes_.cache().open());
    last.push_back(static_cast<int64_t>(flat.tokens.size()) - 1);
  }
  const at::Tensor stream = passes_.prefill(flat, sequences);
  at::Tensor logits, states;
  if (passes_.has_last() && !chosen.empty()) logits = passes_.logits(Passes::rows(stream, last));
  if (draft_) states = passes_.model().normed(stream);
  for (size_t i = 0; i < chosen.size(); ++i) {
    prompts_.push_back({chosen[i], sequences[i], {}, {}, {}, 0});
    if (config_.record_experts) {
      auto experts = std::make_shared<ExpertChoices>();
      append_rows(passes_.choices(), flat.segments[i].start, flat.segments[i].length, *experts);
      prompts_.back().experts = std::move(experts);
    }
    if (logits.defined()) prompts_.back().logits = logits[static_cast<int64_t>(i)];
    if (draft_) prompts_.back().states = states.narrow(0, flat.segments[i].start, flat.segments[i].length);
  }
}

void Generation::start_samples() {
  std::vector<Running> started;
  std::vector<size_t> owner;
  std::vector<Passes::Question> questions;
  int64_t free = room();
  for (size_t p = 0; p < prompts_.size(); ++p) {
    Prompt& prompt = prompts_[p];
    const Request& request = requests_[prompt.request];
    for (; prompt.next_sample < request.samples.size() && free > 0; ++prompt.next_sample, --free) {
      started.push_back({first_result_[prompt.request] + prompt.next_sample, request.samples[prompt.next_sample], -1,
                         static_cast<int64_t>(request.prompt.size())});
      owner.push_back(p);
      results_[started.back().result].prompt_experts = prompt.experts;
      questions.push_back({prompt.logits, started.back().key, 0});
    }
  }
  const auto draws = passes_.draw(questions, sampling_);
  for (size_t i = 0; i < started.size(); ++i) {
    Prompt& prompt = prompts_[owner[i]];
    if (!take(started[i], draws[i])) {
      end(started[i]);
      if (draft_) passes_.cache().close(prompt.sequence);
      continue;
    }
    started[i].sequence = draft_ ? prompt.sequence : passes_.cache().open(prompt.sequence);
    if (draft_) draft_first(prompt, started[i]);
    running_.push_back(started[i]);
  }
  while (!prompts_.empty() && prompts_.front().next_sample == requests_[prompts_.front().request].samples.size()) {
    if (!draft_) passes_.cache().close(prompts_.front().sequence);
    prompts_.pop_front();
  }
}

void Generation::draft_first(const Prompt& prompt, Running& sample) {
  Flat flat;
  flat.add(requests_[prompt.request].prompt);
  std::vector<int32_t> shifted(flat.tokens.begin() + 1, flat.tokens.end());
  shifted.push_back(sample.next);
  const at::Tensor drafts = passes_.model().draft_prefill(int_tensor(shifted), prompt.states, int_tensor(flat.positions), flat.segments,
                                                          {prompt.sequence}, passes_.cache());
  sample.draft = likeliest(drafts, 0);
}

bool Generation::take(Running& sequence, const Draw& draw) {
  Completion& result = results_[sequence.result];
  sequence.next = draw.token;
  if (sampling_.log_probs) result.log_probs.push_back(draw.log_prob);
  if (std::find(sampling_.stop_ids.begin(), sampling_.stop_ids.end(), draw.token) != sampling_.stop_ids.end()) {
    result.finish_reason = "stop";
    result.stop_id = draw.token;
    return false;
  }
  result.tokens.push_back(draw.token);
  if (holds_stop_text(result.tokens)) {
    result.finish_reason = "stop";
    return false;
  }
  const auto made = static_cast<int64_t>(result.tokens.size());
  if (made < sampling_.max_new_tokens && sequence.prompt_length + made < passes_.config().max_position_embeddings) return true;
  result.finish_reason = "length";
  return false;
}

/// A stop text that the newest token completes lies in the text of the last tokens, each of which is a byte at least.
bool Generation::holds_stop_text(const std::vector<int32_t>& tokens) const {
  for (const auto& text : sampling_.stop_texts) {
    const auto count = std::min(tokens.size(), text.size() + 1);
    if (config_.tokenizer->decode({tokens.end() - static_cast<int64_t>(count), tokens.end()}).find(text) != std::string::npos) return true;
  }
  return false;
}

void Generation::end(const Running& sequence) {
  if (sequence.sequence >= 0) passes_.cache().close(sequence.sequence);
  if (Completion& result = results_[sequence.result]; result.prompt_experts)
    for (const auto& [layer, rows] : *result.prompt_experts)
      result.experts[layer].resize(result.experts[layer].size() + static_cast<size_t>(passes_.config().moe.experts_per_token), int16_t{-1});
  ++done_;
  if (on_done_) on_done_(done_);
}

void Generation::advance() {
  if (running_.empty() && !passes_.in_step()) return;
  const int64_t rows_each = draft_ ? 2 : 1;
  std::vector<int32_t> tokens;
  std::vector<int64_t> sequences, lengths;
  for (const Running& r : running_) {
    lengths.push_back(passes_.cache().length(r.sequence));
    for (int64_t k = 0; k < rows_each; ++k) {
      tokens.push_back(k == 0 ? r.next : r.draft);
      sequences.push_back(r.sequence);
    }
  }
  const at::Tensor stream = passes_.decode(tokens, sequences);
  const at::Tensor logits = running_.empty() ? at::Tensor() : passes_.logits(stream);
  std::vector<Passes::Question> questions;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Running& r = running_[i / static_cast<size_t>(rows_each)];
    const auto row = static_cast<int64_t>(i);
    questions.push_back({logits.defined() ? logits[row] : at::Tensor(), r.key, position(r) + static_cast<uint32_t>(row % rows_each)});
  }
  const auto draws = passes_.draw(questions, sampling_);
  if (draft_) return advance_drafted(stream, draws, lengths);
  std::vector<Running> alive;
  for (size_t i = 0; i < running_.size(); ++i) {
    if (config_.record_experts) append_rows(passes_.choices(), static_cast<int64_t>(i), 1, results_[running_[i].result].experts);
    if (take(running_[i], draws[i])) {
      alive.push_back(running_[i]);
    } else {
      end(running_[i]);
    }
  }
  running_ = std::move(alive);
}

void Generation::advance_drafted(const at::Tensor& stream, const std::vector<Draw>& draws, const std::vector<int64_t>& lengths) {
  std::vector<Running> alive;
  model::DraftRows rows;  // for the MTP module: each accepted token with the state before it
  std::vector<int64_t> last;
  for (size_t i = 0; i < running_.size(); ++i) {
    Running r = running_[i];
    bool goes_on = true, hit = true;
    int64_t taken = 0;
    for (; taken < 2 && goes_on && hit; ++taken) {
      const int32_t expected = r.draft;
      const auto row = 2 * i + static_cast<size_t>(taken);
      goes_on = take(r, draws[row]);
      hit = r.next == expected;
      rows.add(r.next, static_cast<int64_t>(row), lengths[i] + taken, r.sequence);
    }
    ++drafts_.made;
    drafts_.accepted += taken - 1;
    passes_.cache().set_length(r.sequence, lengths[i] + taken);
    if (goes_on) {
      alive.push_back(r);
      last.push_back(rows.size() - 1);
    } else {
      rows.drop(taken);
      end(r);
    }
  }
  running_ = std::move(alive);
  if (running_.empty()) return;
  const at::Tensor drafts = passes_.model().draft_decode(rows, passes_.model().normed(stream), last, passes_.cache());
  for (size_t i = 0; i < running_.size(); ++i) running_[i].draft = likeliest(drafts, static_cast<int64_t>(i));
}

}  // namespace tessera::inference
