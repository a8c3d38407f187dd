#include "moe/load_balancer.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tessera::moe {

namespace {
int64_t total(const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }
}  // namespace

double LayerLoad::max_violation() const {
  const double mean = static_cast<double>(total(counts)) / static_cast<double>(counts.size());
  return mean > 0 ? static_cast<double>(*std::max_element(counts.begin(), counts.end())) / mean - 1.0 : 0.0;
}

double LayerLoad::entropy() const {
  const auto sum = static_cast<double>(total(counts));
  if (sum == 0 || counts.size() < 2) return 1.0;
  double entropy = 0;
  for (int64_t count : counts)
    if (count > 0) entropy -= static_cast<double>(count) / sum * std::log(static_cast<double>(count) / sum);
  return entropy / std::log(static_cast<double>(counts.size()));
}

LoadBalancer::LoadBalancer(std::vector<Router*> routers, double bias_update_rate)
    : routers_(std::move(routers)), rate_(bias_update_rate) {}

void LoadBalancer::begin_step() {
  for (Router* router : routers_) router->reset_statistics();
}

std::vector<LayerLoad> LoadBalancer::collect(parallel::Communicator& dp) const {
  int64_t size = 0;
  for (Router* router : routers_) size += static_cast<int64_t>(router->statistics().counts.size());
  at::Tensor all = at::zeros({size}, at::kLong);
  int64_t* next = all.data_ptr<int64_t>();
  for (Router* router : routers_) next = std::copy(router->statistics().counts.begin(), router->statistics().counts.end(), next);
  if (size > 0) dp.all_reduce(all)->wait();
  std::vector<LayerLoad> loads;
  const int64_t* begin = all.const_data_ptr<int64_t>();
  for (Router* router : routers_) {
    const auto count = static_cast<std::ptrdiff_t>(router->statistics().counts.size());
    loads.push_back(LayerLoad{std::vector<int64_t>(begin, begin + count)});
    begin += count;
  }
  return loads;
}

void LoadBalancer::update(const std::vector<LayerLoad>& loads) {
  if (rate_ == 0) return;
  for (size_t i = 0; i < routers_.size(); ++i) {
    if (!routers_[i]->bias()) continue;
    const auto& counts = loads[i].counts;
    const int64_t sum = total(counts), experts = static_cast<int64_t>(counts.size());
    float* bias = routers_[i]->bias()->value.data_ptr<float>();
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t missing = sum - counts[static_cast<size_t>(e)] * experts;  // in integers: a tie is a tie
      bias[e] += static_cast<float>(rate_) * static_cast<float>((missing > 0) - (missing < 0));
    }
  }
}

double LoadBalancer::balance_loss() const {
  double sum = 0;
  for (Router* router : routers_) sum += router->statistics().balance_loss;
  return sum;
}

double LoadBalancer::z_loss() const {
  double sum = 0;
  for (Router* router : routers_) sum += router->statistics().z_loss;
  return sum;
}

}  // namespace tessera::moe
