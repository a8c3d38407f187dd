#include "moe/dispatcher.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <optional>

#include "core/error.h"
#include "kernels/permute.h"
#include "parallel/row_exchange.h"

namespace tessera::moe {

namespace {

using kernels::RowMap;
using kernels::RowMapPtr;

/// Rows sorted by expert [0, num_experts), within an expert by token; a choice of -1 gets none.
RowMapPtr sort_by_expert(const at::Tensor& experts, int64_t num_experts, std::vector<int64_t>& offsets) {
  auto map = std::make_shared<RowMap>();
  map->tokens = experts.size(0);
  map->choices = experts.size(1);
  const int32_t* expert = experts.const_data_ptr<int32_t>();
  const auto count = static_cast<size_t>(experts.numel());
  offsets.assign(static_cast<size_t>(num_experts) + 1, 0);
  for (size_t slot = 0; slot < count; ++slot)
    if (expert[slot] >= 0) ++offsets[static_cast<size_t>(expert[slot]) + 1];
  for (size_t e = 1; e < offsets.size(); ++e) offsets[e] += offsets[e - 1];
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  map->keys.assign(expert, expert + count);
  map->num_keys = static_cast<int32_t>(num_experts);
  map->row_of.assign(count, -1);
  map->slot_of.resize(static_cast<size_t>(offsets.back()));
  for (size_t slot = 0; slot < count; ++slot) {
    if (expert[slot] < 0) continue;
    const int64_t row = next[static_cast<size_t>(expert[slot])]++;
    map->row_of[slot] = row;
    map->slot_of[static_cast<size_t>(row)] = static_cast<int64_t>(slot);
  }
  return map;
}

/// Tokens whose experts are all here: the last leg of every way.
class LocalDispatch final : public Dispatch {
 public:
  /// experts: [T, K] int32, counted from this rank's first; -1: elsewhere.
  LocalDispatch(at::Tensor x, at::Tensor weights, const at::Tensor& experts, int64_t num_experts)
      : x_(std::move(x)), weights_(std::move(weights)), map_(sort_by_expert(experts, num_experts, offsets_)) {}

  Arrived arrive() override { return {kernels::gather_rows(x_, map_), offsets_}; }
  void send_back(const at::Tensor& outputs) override { outputs_ = outputs; }
  at::Tensor combine(const at::Tensor& base) override { return kernels::combine_rows(outputs_, weights_, base, map_); }

 private:
  at::Tensor x_, weights_, outputs_;
  std::vector<int64_t> offsets_;
  RowMapPtr map_;
};

class LocalDispatcher final : public Dispatcher {
 public:
  explicit LocalDispatcher(int64_t num_experts) : num_experts_(num_experts) {}
  [[nodiscard]] std::unique_ptr<Dispatch> dispatch(const at::Tensor& x, const Routing& routing) const override {
    return std::make_unique<LocalDispatch>(x, routing.weights, routing.experts, num_experts_);
  }
  [[nodiscard]] int64_t num_local_experts() const override { return num_experts_; }

 private:
  int64_t num_experts_;
};

/// Which tokens go to which rank, and the experts that each is to visit there.
struct Departures {
  RowMapPtr map;                // rows in the order (rank, token)
  std::vector<int64_t> counts;  // [ranks]
  at::Tensor experts;           // [rows, K] int32, counted from that rank's first; -1: another rank's
};

Departures plan_departures(const at::Tensor& experts, int64_t ranks, int64_t experts_per_rank) {
  const int64_t tokens = experts.size(0), choices = experts.size(1);
  const int32_t* expert = experts.const_data_ptr<int32_t>();
  Departures plan;
  plan.counts.assign(static_cast<size_t>(ranks), 0);
  // A token's choices by rank, each rank once: `seen` holds the last token that counted for a rank.
  std::vector<int64_t> seen(static_cast<size_t>(ranks), -1);
  const auto for_each_departure = [&](const auto& body) {
    std::fill(seen.begin(), seen.end(), -1);
    for (int64_t slot = 0; slot < tokens * choices; ++slot) {
      const auto rank = static_cast<size_t>(expert[slot] / experts_per_rank);
      if (seen[rank] == slot / choices) continue;
      seen[rank] = slot / choices;
      body(slot, rank);
    }
  };
  for_each_departure([&](int64_t, size_t rank) { ++plan.counts[rank]; });
  std::vector<int64_t> next(static_cast<size_t>(ranks), 0);
  int64_t rows = 0;
  for (size_t r = 0; r < next.size(); ++r) {
    next[r] = rows;
    rows += plan.counts[r];
  }
  auto map = std::make_shared<RowMap>();
  map->tokens = tokens;
  map->choices = choices;
  map->keys.resize(static_cast<size_t>(tokens * choices));
  map->num_keys = static_cast<int32_t>(ranks);
  map->row_of.assign(static_cast<size_t>(tokens * choices), -1);
  map->slot_of.resize(static_cast<size_t>(rows));
  plan.experts = at::empty({rows, choices}, at::kInt);
  int32_t* local = plan.experts.data_ptr<int32_t>();
  for_each_departure([&](int64_t slot, size_t rank) {
    const int64_t row = next[rank]++, token = slot / choices;
    map->row_of[static_cast<size_t>(slot)] = row;
    map->slot_of[static_cast<size_t>(row)] = slot;
    map->keys[static_cast<size_t>(slot)] = static_cast<int32_t>(rank);
    for (int64_t k = 0; k < choices; ++k) {
      const int64_t e = expert[token * choices + k] - static_cast<int64_t>(rank) * experts_per_rank;
      local[row * choices + k] = e >= 0 && e < experts_per_rank ? static_cast<int32_t>(e) : -1;
    }
  });
  plan.map = map;
  return plan;
}

class AllToAllDispatch final : public Dispatch {
 public:
  AllToAllDispatch(const at::Tensor& x, const Routing& routing, int64_t experts_per_rank, parallel::Communicator& ep)
      : ep_(ep), experts_per_rank_(experts_per_rank) {
    const auto ranks = static_cast<size_t>(ep.size());
    const Departures plan = plan_departures(routing.experts, ep.size(), experts_per_rank);
    map_ = plan.map;
    at::Tensor sent = at::empty({static_cast<int64_t>(ranks)}, at::kLong), received = at::empty_like(sent);
    std::copy(plan.counts.begin(), plan.counts.end(), sent.data_ptr<int64_t>());
    const std::vector<int64_t> ones(ranks, 1);
    const auto counts = ep.all_to_all(received, sent, ones, ones);
    const at::Tensor rows = kernels::gather_rows(x, map_), weights = kernels::gather_rows(routing.weights, map_);  // while the counts travel
    counts->wait();
    arriving_.assign(received.const_data_ptr<int64_t>(), received.const_data_ptr<int64_t>() + ranks);
    departing_ = plan.counts;
    int64_t total = 0;
    for (int64_t count : arriving_) total += count;
    experts_ = at::empty({total, plan.experts.size(1)}, at::kInt);
    experts_work_ = ep.all_to_all(experts_, plan.experts, arriving_, departing_);
    weights_way_.emplace(ep, departing_, arriving_);
    weights_ = weights_way_->start(weights);
    there_.emplace(ep, departing_, arriving_);
    rows_ = there_->start(rows);
  }

  Arrived arrive() override {
    experts_work_->wait();
    const at::Tensor weights = weights_way_->finish(weights_), rows = there_->finish(rows_);
    base_ = at::zeros({rows.size(0), rows.size(1)}, rows.options());
    local_.emplace(rows, weights, experts_, experts_per_rank_);
    return local_->arrive();
  }

  void send_back(const at::Tensor& outputs) override {
    local_->send_back(outputs);
    back_.emplace(ep_, arriving_, departing_);
    sums_ = back_->start(local_->combine(base_));
  }

  at::Tensor combine(const at::Tensor& base) override { return kernels::sum_rows(back_->finish(sums_), base, map_); }

 private:
  parallel::Communicator& ep_;
  int64_t experts_per_rank_;
  RowMapPtr map_;
  std::vector<int64_t> departing_, arriving_;  // rows by rank
  at::Tensor experts_, weights_, rows_, sums_, base_;
  parallel::WorkPtr experts_work_;
  std::optional<parallel::RowExchange> weights_way_, there_, back_;
  std::optional<LocalDispatch> local_;
};

class AllToAllDispatcher final : public Dispatcher {
 public:
  AllToAllDispatcher(int64_t num_experts, parallel::Communicator& ep) : ep_(ep), experts_per_rank_(num_experts / ep.size()) {
    if (num_experts % ep.size() != 0)
      throw ConfigError(detail::concat("parallel.ep = ", ep.size(), " must divide the model's ", num_experts, " experts"));
  }
  [[nodiscard]] std::unique_ptr<Dispatch> dispatch(const at::Tensor& x, const Routing& routing) const override {
    return std::make_unique<AllToAllDispatch>(x, routing, experts_per_rank_, ep_);
  }
  [[nodiscard]] int64_t first_expert() const override { return ep_.rank() * experts_per_rank_; }
  [[nodiscard]] int64_t num_local_experts() const override { return experts_per_rank_; }

 private:
  parallel::Communicator& ep_;
  int64_t experts_per_rank_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_local_dispatcher(int64_t num_experts) { return std::make_unique<LocalDispatcher>(num_experts); }

std::unique_ptr<Dispatcher> make_all_to_all_dispatcher(int64_t num_experts, parallel::Communicator& ep) {
  return std::make_unique<AllToAllDispatcher>(num_experts, ep);
}

}  // namespace tessera::moe
