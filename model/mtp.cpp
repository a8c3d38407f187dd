#include "model/mtp.h"

#include <ATen/ops/cat.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/rms_norm.h"

namespace tessera::model {

MtpModule::MtpModule(const ModelConfig& c, int64_t layer, const kernels::ParameterPtr& head, const Shard& shard)
    : block_(c, layer, shard), embedding_norm_(kernels::make_parameter({c.hidden_size})), hidden_norm_(kernels::make_parameter({c.hidden_size})),
      eps_(static_cast<float>(c.rms_norm_eps)), join_(make_linear({{"eh_proj", c.hidden_size}}, 2 * c.hidden_size, false)) {
  head_.weight = head;
  head_.prologue = kernels::Prologue::kRmsNorm;
  head_.norm = kernels::make_parameter({c.hidden_size});
  head_.norm_eps = eps_;
}

// The files have the embedding first, unlike eq. 21 of the paper.
at::Tensor MtpModule::joined(const at::Tensor& embedded_TD, const at::Tensor& hidden_TD, const Pass& pass) const {
  const at::Tensor both = at::cat({kernels::rms_norm_layer(embedded_TD, embedding_norm_, eps_),
                                   kernels::rms_norm_layer(hidden_TD, hidden_norm_, eps_)}, 1);
  return run_linear(pass, both, join_);
}

at::Tensor MtpModule::forward(const at::Tensor& embedded_TD, const at::Tensor& hidden_TD, const Pass& pass) {
  return block_.forward(joined(embedded_TD, hidden_TD, pass), pass);
}

at::Tensor MtpModule::decode(const at::Tensor& embedded_TD, const at::Tensor& hidden_TD, const Pass& pass) {
  return block_.decode(joined(embedded_TD, hidden_TD, pass), pass);
}

at::Tensor MtpModule::normed(const at::Tensor& output_TD) const { return kernels::rms_norm_layer(output_TD, head_.norm, eps_); }

void MtpModule::list_weights(std::vector<NamedWeight>& list) const {
  list_weight(block_.prefix() + "enorm.weight", embedding_norm_, list);
  list_weight(block_.prefix() + "hnorm.weight", hidden_norm_, list);
  list_linear(block_.prefix(), join_, list);
  list.back().projection = false;  // FP8 files leave it as it is
  block_.list_weights(list);
  list_weight(block_.prefix() + "shared_head.norm.weight", head_.norm, list);
}

void DraftRows::add(int32_t token, int64_t state, int64_t position, int64_t sequence) {
  tokens.push_back(token);
  states.push_back(state);
  positions.push_back(position);
  sequences.push_back(sequence);
}

void DraftRows::drop(int64_t count) {
  const auto left = static_cast<size_t>(size() - count);
  tokens.resize(left);
  for (auto* list : {&states, &positions, &sequences}) list->resize(left);
}

namespace {

/// First token of the segment that each token belongs to.
std::vector<int64_t> segment_starts(const std::vector<Segment>& segments) {
  std::vector<int64_t> starts;
  for (const Segment& s : segments) {
    TESSERA_CHECK(s.parent < 0, "multi-token prediction over segments with parents");
    starts.resize(static_cast<size_t>(std::max<int64_t>(static_cast<int64_t>(starts.size()), s.start + s.length)));
    std::fill(starts.begin() + s.start, starts.begin() + s.start + s.length, s.start);
  }
  return starts;
}

}  // namespace

std::vector<int64_t> count_mtp_targets(const std::vector<int64_t>& sources, const std::vector<Segment>& segments, int64_t depth) {
  const auto starts = segment_starts(segments);
  std::vector<int64_t> counts(static_cast<size_t>(depth));
  for (int64_t k = 1; k <= depth; ++k)
    counts[static_cast<size_t>(k - 1)] = std::count_if(sources.begin(), sources.end(), [&](int64_t s) { return s - k >= starts[static_cast<size_t>(s)]; });
  return counts;
}

std::vector<MtpRows> mtp_rows(const std::vector<int32_t>& tokens, const std::vector<Segment>& segments, const kernels::Targets& targets,
                              const std::vector<double>& weights, const std::vector<int64_t>& row_starts) {
  const auto starts = segment_starts(segments);
  std::vector<MtpRows> modules;
  std::vector<int64_t> before(tokens.size());  // row of each token in the module before
  for (size_t t = 0; t < before.size(); ++t) before[t] = static_cast<int64_t>(t);
  for (size_t m = 0; m < weights.size(); ++m) {
    const auto k = static_cast<int64_t>(m) + 1;
    MtpRows rows;
    std::vector<int64_t> here(tokens.size(), -1);
    auto next_row = row_starts.begin();
    for (const Segment& s : segments) {
      if (s.length <= k) continue;
      if (next_row != row_starts.end() && *next_row <= s.start) {
        rows.row_starts.push_back(static_cast<int64_t>(rows.sources.size()));
        next_row = std::upper_bound(next_row, row_starts.end(), s.start);
      }
      rows.segments.push_back({static_cast<int64_t>(rows.sources.size()), s.length - k, s.first_position, -1});
      for (int64_t i = 0; i < s.length - k; ++i) {
        const auto t = static_cast<size_t>(s.start + i);
        here[t] = static_cast<int64_t>(rows.sources.size());
        rows.sources.push_back(before[t]);
        rows.tokens.push_back(tokens[t + static_cast<size_t>(k)]);
        rows.positions.push_back(static_cast<int32_t>(s.first_position + i));
      }
    }
    for (size_t i = 0; i < targets.sources.size(); ++i) {
      const int64_t base = targets.sources[i] - k;
      if (base < starts[static_cast<size_t>(targets.sources[i])]) continue;
      rows.targets.sources.push_back(here[static_cast<size_t>(base)]);
      rows.targets.ids.push_back(targets.ids[i]);
      rows.targets.weights.push_back(static_cast<float>(weights[m]));
    }
    before = std::move(here);
    modules.push_back(std::move(rows));
  }
  return modules;
}

}  // namespace tessera::model
