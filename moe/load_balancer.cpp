#include "moe/load_balancer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
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

/// One of each router's sums, on the host; undefined where there is none. A device is waited for once.
std::vector<at::Tensor> of_each(const std::vector<LayerRouter>& routers, at::Tensor RoutingSums::* sum) {
  std::vector<at::Tensor> found, result;
  for (const LayerRouter& r : routers)
    if (const at::Tensor& x = r.router->sums().*sum; x.defined()) found.push_back(x);
  if (found.empty()) return std::vector<at::Tensor>(routers.size());
  const at::Tensor host = at::stack(found).cpu();
  int64_t next = 0;
  for (const LayerRouter& r : routers) result.push_back((r.router->sums().*sum).defined() ? host[next++] : at::Tensor());
  return result;
}

double total_of(const std::vector<LayerRouter>& routers, at::Tensor RoutingSums::* sum) {
  double total = 0;
  for (const at::Tensor& x : of_each(routers, sum)) total += x.defined() ? x.item<double>() : 0.0;
  return total;
}

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
  for (const LayerRouter& r : routers_) r.router->reset_sums();
}

std::vector<LayerLoad> LoadBalancer::collect(parallel::Communicator& world) const {
  if (layers_.empty()) return {};
  at::Tensor all = at::zeros({static_cast<int64_t>(layers_.size()), num_experts_}, at::kLong);
  int64_t* count = all.data_ptr<int64_t>();
  const auto counts = of_each(routers_, &RoutingSums::counts);
  for (size_t i = 0; i < routers_.size(); ++i)
    if (counts[i].defined()) std::copy_n(counts[i].const_data_ptr<int64_t>(), num_experts_, count + static_cast<int64_t>(place(routers_[i])) * num_experts_);
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

double LoadBalancer::balance_loss() const { return total_of(routers_, &RoutingSums::balance_loss); }

double LoadBalancer::z_loss() const { return total_of(routers_, &RoutingSums::z_loss); }

}  // namespace tessera::moe
