#include "moe/load_balancer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "kernels/accelerator.h"

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

LoadBalancer::LoadBalancer(std::vector<LayerRouter> routers, std::vector<int64_t> layers, int64_t num_experts, double bias_update_rate)
    : routers_(std::move(routers)), layers_(std::move(layers)), num_experts_(num_experts), rate_(bias_update_rate) {
  for (const LayerRouter& router : routers_) (void)place(router);
}

size_t LoadBalancer::place(const LayerRouter& router) const {
  const auto found = std::find(layers_.begin(), layers_.end(), router.layer);
  TESSERA_CHECK(found != layers_.end(), "layer ", router.layer, " has a router that is not balanced");
  return static_cast<size_t>(found - layers_.begin());
}

void LoadBalancer::begin_step() {
  for (const LayerRouter& r : routers_) r.router->reset_statistics();
}

std::vector<LayerLoad> LoadBalancer::collect(parallel::Communicator& world) const {
  if (layers_.empty()) return {};
  at::Tensor all = at::zeros({static_cast<int64_t>(layers_.size()), num_experts_}, at::kLong);
  int64_t* count = all.data_ptr<int64_t>();
  for (const LayerRouter& r : routers_) {
    const auto& counts = r.router->statistics().counts;
    std::copy(counts.begin(), counts.end(), count + static_cast<int64_t>(place(r)) * num_experts_);
  }
  world.all_reduce(all, parallel::ReduceOp::kSum, "experts' counts")->wait();
  std::vector<LayerLoad> loads;
  for (size_t i = 0; i < layers_.size(); ++i, count += num_experts_) loads.push_back(LayerLoad{std::vector<int64_t>(count, count + num_experts_)});
  return loads;
}

void LoadBalancer::update(const std::vector<LayerLoad>& loads) {
  if (rate_ == 0) return;
  for (const LayerRouter& r : routers_) {
    if (!r.router->bias()) continue;
    const auto& counts = loads[place(r)].counts;
    const int64_t sum = total(counts), experts = static_cast<int64_t>(counts.size());
    at::Tensor change = at::empty({experts}, at::kFloat);
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t missing = sum - counts[static_cast<size_t>(e)] * experts;  // in integers: a tie is a tie
      change.data_ptr<float>()[e] = static_cast<float>(rate_) * static_cast<float>((missing > 0) - (missing < 0));
    }
    at::Tensor bias = r.router->bias()->value;
    bias.add_(kernels::beside(bias, change));
  }
}

double LoadBalancer::balance_loss() const {
  double sum = 0;
  for (const LayerRouter& r : routers_) sum += r.router->statistics().balance_loss;
  return sum;
}

double LoadBalancer::z_loss() const {
  double sum = 0;
  for (const LayerRouter& r : routers_) sum += r.router->statistics().z_loss;
  return sum;
}

}  // namespace tessera::moe
