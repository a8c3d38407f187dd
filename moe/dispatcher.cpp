#include "moe/dispatcher.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "core/error.h"
#include "kernels/accelerator.h"
#include "kernels/permute.h"
#include "parallel/row_exchange.h"

namespace tessera::moe {

namespace {

using kernels::RowMap;
using kernels::RowMapPtr;

/// Tokens in the order of their sources, those of one source as they are.
std::vector<int64_t> by_source(const at::Tensor& sources, int64_t tokens) {
  std::vector<int64_t> order(static_cast<size_t>(tokens));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (!sources.defined()) return order;
  const int32_t* source = sources.const_data_ptr<int32_t>();
  std::stable_sort(order.begin(), order.end(), [source](int64_t a, int64_t b) { return source[a] < source[b]; });
  return order;
}

/// Rows sorted by expert [0, num_experts), within an expert by source and token; a choice of -1 gets none.
RowMapPtr sort_by_expert(const Departure& tokens, int64_t num_experts, kernels::RowGroups& groups) {
  const kernels::Accelerator* device = kernels::accelerator_of(tokens.x);
  if (device != nullptr && !tokens.planned_on_host) return device->sort_by_expert(tokens.experts, num_experts, groups);
  std::vector<int64_t>& offsets = groups.offsets;
  auto map = std::make_shared<RowMap>();
  map->tokens = tokens.experts.size(0);
  map->choices = tokens.experts.size(1);
  const int32_t* expert = tokens.experts.const_data_ptr<int32_t>();
  const auto count = static_cast<size_t>(tokens.experts.numel());
  offsets.assign(static_cast<size_t>(num_experts) + 1, 0);
  for (size_t slot = 0; slot < count; ++slot)
    if (expert[slot] >= 0) ++offsets[static_cast<size_t>(expert[slot]) + 1];
  for (size_t e = 1; e < offsets.size(); ++e) offsets[e] += offsets[e - 1];
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  map->keys.assign(expert, expert + count);
  map->num_keys = static_cast<int32_t>(num_experts);
  map->row_of.assign(count, -1);
  map->slot_of.resize(static_cast<size_t>(offsets.back()));
  for (int64_t token : by_source(tokens.sources, map->tokens)) {
    for (int64_t slot = token * map->choices; slot < (token + 1) * map->choices; ++slot) {
      if (expert[slot] < 0) continue;
      const int64_t row = next[static_cast<size_t>(expert[slot])]++;
      map->row_of[static_cast<size_t>(slot)] = row;
      map->slot_of[static_cast<size_t>(row)] = slot;
    }
  }
  if (device != nullptr) {
    map->copy_to(*device);
    groups.copy_to(*device);
  }
  return map;
}

/// Tokens whose experts are all here: the last leg of every way, at whose end rows are as they arrived.
class LocalDispatch final : public Dispatch {
 public:
  LocalDispatch(const Departure& tokens, int64_t num_experts)
      : x_(kernels::as_if_sent(tokens.x, tokens.wire.dispatch, tokens.wire.combine)), weights_(tokens.weights), wire_(tokens.wire),
        map_(sort_by_expert(tokens, num_experts, groups_)) {}

  Arrived arrive() override { return {x_, map_, groups_}; }
  void send_back(const at::Tensor& outputs) override { outputs_ = outputs; }
  at::Tensor combine(const at::Tensor& base) override {
    if (!wire_.dispatch.rounds() && !wire_.combine.rounds()) return kernels::combine_rows(outputs_, weights_, base, map_);
    const at::Tensor sums = kernels::combine_rows(outputs_, weights_, at::zeros(base.sizes(), outputs_.options()), map_);
    return base + kernels::as_if_sent(sums, wire_.combine, wire_.dispatch);
  }

 private:
  at::Tensor x_, weights_, outputs_;
  Wire wire_;
  kernels::RowGroups groups_;
  RowMapPtr map_;
};

class LocalDispatcher final : public Dispatcher {
 public:
  explicit LocalDispatcher(int64_t num_experts) : num_experts_(num_experts) {}
  [[nodiscard]] std::unique_ptr<Dispatch> dispatch(const Departure& tokens) const override {
    return std::make_unique<LocalDispatch>(tokens, num_experts_);
  }
  [[nodiscard]] int64_t num_local_experts() const override { return num_experts_; }

 private:
  int64_t num_experts_;
};

/// What is exchanged is planned by the host, which waits for a device's choices.
Departure on_host(Departure tokens) {
  tokens.experts = tokens.experts.cpu();
  return tokens;
}

/// Which tokens go to which member of a group, and the experts that each is to visit there.
struct Plan {
  RowMapPtr map;                // rows in the order (member, token)
  std::vector<int64_t> counts;  // [members]
  at::Tensor labels;            // [rows, K or K + 1] int32: experts, counted from that member's first, -1: another's; the source
};

/// `source`: of tokens that carry none; -1: sources are not sent.
Plan plan_departure(const Departure& tokens, int64_t members, int64_t experts_per_member, int32_t source) {
  const int64_t count = tokens.experts.size(0), choices = tokens.experts.size(1);
  const int32_t* expert = tokens.experts.const_data_ptr<int32_t>();
  const int32_t* sources = tokens.sources.defined() ? tokens.sources.const_data_ptr<int32_t>() : nullptr;
  Plan plan;
  plan.counts.assign(static_cast<size_t>(members), 0);
  // A token's choices by member, each member once: `seen` holds the last token that counted for a member.
  std::vector<int64_t> seen(static_cast<size_t>(members), -1);
  const auto for_each_departure = [&](const auto& body) {
    std::fill(seen.begin(), seen.end(), -1);
    for (int64_t slot = 0; slot < count * choices; ++slot) {
      if (expert[slot] < 0) continue;
      const auto member = static_cast<size_t>(expert[slot] / experts_per_member);
      if (std::exchange(seen[member], slot / choices) != slot / choices) body(slot, member);
    }
  };
  for_each_departure([&](int64_t, size_t member) { ++plan.counts[member]; });
  std::vector<int64_t> next(static_cast<size_t>(members), 0);
  int64_t rows = 0;
  for (size_t m = 0; m < next.size(); ++m) {
    next[m] = rows;
    rows += plan.counts[m];
  }
  auto map = std::make_shared<RowMap>();
  map->tokens = count;
  map->choices = choices;
  map->keys.resize(static_cast<size_t>(count * choices));
  map->num_keys = static_cast<int32_t>(members);
  map->row_of.assign(static_cast<size_t>(count * choices), -1);
  map->slot_of.resize(static_cast<size_t>(rows));
  const int64_t width = choices + (sources != nullptr || source >= 0 ? 1 : 0);
  plan.labels = at::empty({rows, width}, at::kInt);
  int32_t* labels = plan.labels.data_ptr<int32_t>();
  for_each_departure([&](int64_t slot, size_t member) {
    const int64_t row = next[member]++, token = slot / choices;
    map->row_of[static_cast<size_t>(slot)] = row;
    map->slot_of[static_cast<size_t>(row)] = slot;
    map->keys[static_cast<size_t>(slot)] = static_cast<int32_t>(member);
    const int64_t first = static_cast<int64_t>(member) * experts_per_member;
    for (int64_t k = 0; k < choices; ++k) {
      const int64_t e = expert[token * choices + k] - first;
      labels[row * width + k] = expert[token * choices + k] >= 0 && e >= 0 && e < experts_per_member ? static_cast<int32_t>(e) : -1;
    }
    if (width > choices) labels[row * width + choices] = sources != nullptr ? sources[token] : source;
  });
  if (const auto* device = kernels::accelerator_of(tokens.x)) map->copy_to(*device);
  plan.map = map;
  return plan;
}

/// One hop: to the members of a group, and from there on with `inner`.
struct Hop {
  parallel::Communicator& group;
  int64_t experts_per_member;
  std::unique_ptr<Dispatcher> inner;  // of this member's experts
  int32_t source;                     // what tokens that carry no source are marked with; -1: not
  bool hands_on;                      // `inner` is another hop
  std::string site;
  std::vector<Passage>* record;
  kernels::GradientQueue* queue;
};

class AllToAllDispatch final : public Dispatch {
 public:
  AllToAllDispatch(const Departure& tokens, const Hop& hop) : hop_(hop), wire_(tokens.wire), choices_(tokens.experts.size(1)) {
    const auto members = static_cast<size_t>(hop.group.size());
    const Plan plan = plan_departure(on_host(tokens), hop.group.size(), hop.experts_per_member, hop.source);
    map_ = plan.map;
    departing_ = plan.counts;
    at::Tensor sent = at::empty({static_cast<int64_t>(members)}, at::kLong), received = at::empty_like(sent);
    std::copy(departing_.begin(), departing_.end(), sent.data_ptr<int64_t>());
    const std::vector<int64_t> ones(members, 1);
    const auto counts = hop.group.all_to_all(received, sent, ones, ones, hop.site + ", counts");
    const at::Tensor rows = kernels::gather_rows(tokens.x, map_), weights = kernels::gather_rows(tokens.weights, map_);  // while the counts travel
    counts->wait();
    arriving_.assign(received.const_data_ptr<int64_t>(), received.const_data_ptr<int64_t>() + members);
    if (hop.record != nullptr) hop.record->push_back({departing_, arriving_});
    labels_ = at::empty({std::accumulate(arriving_.begin(), arriving_.end(), int64_t{0}), plan.labels.size(1)}, at::kInt);
    labels_work_ = hop.group.all_to_all(labels_, plan.labels, arriving_, departing_, hop.site + ", experts");
    weights_way_.emplace(hop.group, departing_, arriving_, hop.site + ", weights", hop.queue);
    weights_ = weights_way_->start(weights);
    there_.emplace(hop.group, departing_, arriving_, hop.site + ", tokens", hop.queue, parallel::WayFormats{wire_.dispatch, wire_.combine});
    rows_ = there_->start(rows);
  }

  Arrived arrive() override {
    labels_work_->wait();
    Departure here;
    here.weights = weights_way_->finish(weights_);
    here.x = there_->finish(rows_);
    here.planned_on_host = true;
    here.experts = labels_.narrow(1, 0, choices_).contiguous();
    if (labels_.size(1) > choices_) here.sources = labels_.select(1, choices_).contiguous();
    if (hop_.hands_on) here.wire = wire_;
    base_ = at::zeros({here.x.size(0), here.x.size(1)}, here.x.options());
    inner_ = hop_.inner->dispatch(here);
    return inner_->arrive();
  }

  void send_back(const at::Tensor& outputs) override {
    inner_->send_back(outputs);
    back_.emplace(hop_.group, arriving_, departing_, hop_.site + ", sums", hop_.queue, parallel::WayFormats{wire_.combine, wire_.dispatch});
    sums_ = back_->start(inner_->combine(base_));
  }

  at::Tensor combine(const at::Tensor& base) override { return kernels::sum_rows(back_->finish(sums_), base, map_); }

 private:
  const Hop& hop_;
  Wire wire_;
  int64_t choices_;
  RowMapPtr map_;
  std::vector<int64_t> departing_, arriving_;  // rows by member
  at::Tensor labels_, weights_, rows_, sums_, base_;
  parallel::WorkPtr labels_work_;
  std::optional<parallel::RowExchange> weights_way_, there_, back_;
  std::unique_ptr<Dispatch> inner_;
};

class AllToAllDispatcher final : public Dispatcher {
 public:
  explicit AllToAllDispatcher(Hop hop) : hop_(std::move(hop)) {}
  [[nodiscard]] std::unique_ptr<Dispatch> dispatch(const Departure& tokens) const override { return std::make_unique<AllToAllDispatch>(tokens, hop_); }
  [[nodiscard]] int64_t first_expert() const override { return hop_.group.rank() * hop_.experts_per_member + hop_.inner->first_expert(); }
  [[nodiscard]] int64_t num_local_experts() const override { return hop_.inner->num_local_experts(); }

 private:
  Hop hop_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_local_dispatcher(int64_t num_experts) { return std::make_unique<LocalDispatcher>(num_experts); }

std::unique_ptr<Dispatcher> make_all_to_all_dispatcher(int64_t num_experts, const parallel::ExpertAxis& axis, std::string site,
                                                       std::vector<Passage>* record, kernels::GradientQueue* queue) {
  const int64_t ranks = axis.ranks->size(), each = num_experts / ranks;
  if (num_experts % ranks != 0) throw ConfigError(detail::concat("parallel.ep = ", ranks, " must divide the model's ", num_experts, " experts"));
  const auto hop = [&](parallel::Communicator& group, int64_t experts, std::unique_ptr<Dispatcher> inner, int32_t source, bool hands_on,
                       const char* where) {
    return std::make_unique<AllToAllDispatcher>(Hop{group, experts, std::move(inner), source, hands_on, site + where, record, queue});
  };
  if (!axis.two_hops()) return hop(*axis.ranks, each, make_local_dispatcher(each), -1, false, "");
  auto within = hop(*axis.within, each, make_local_dispatcher(each), -1, false, " inside the node");
  return hop(*axis.across, each * axis.within->size(), std::move(within), axis.ranks->rank(), true, " between nodes");
}

void rehearse(parallel::Communicator& group, const Passage& passage, int64_t choices, int64_t dim, const Wire& wire, bool two_hops, bool backward) {
  const auto total = [](const std::vector<int64_t>& rows) { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); };
  const auto nowhere = [](at::ScalarType type) { return at::TensorOptions(type).device(at::kMeta); };
  const auto exchange = [&](const std::vector<int64_t>& sent, const std::vector<int64_t>& received, int64_t width, at::ScalarType type) {
    group.all_to_all(at::empty({total(received), width}, nowhere(type)), at::empty({total(sent), width}, nowhere(type)), received, sent)->wait();
  };
  const auto send_rows = [&](const std::vector<int64_t>& sent, const std::vector<int64_t>& received, kernels::RowFormat format) {
    const auto rows = [&](const std::vector<int64_t>& counts) { return kernels::packed_room(total(counts), dim, format, nowhere(at::kFloat)); };
    group.all_to_all(rows(received), rows(sent), received, sent)->wait();
  };
  const auto& [departing, arriving] = passage;
  if (backward) {
    send_rows(departing, arriving, wire.dispatch);       // of the sums
    send_rows(arriving, departing, wire.combine);        // of the tokens
    exchange(arriving, departing, choices, at::kFloat);  // of their weights
    return;
  }
  const std::vector<int64_t> ones(departing.size(), 1);
  exchange(ones, ones, 1, at::kLong);
  exchange(departing, arriving, choices + (two_hops ? 1 : 0), at::kInt);
  exchange(departing, arriving, choices, at::kFloat);
  send_rows(departing, arriving, wire.dispatch);
  send_rows(arriving, departing, wire.combine);
}

}  // namespace tessera::moe
