#include "parallel/mesh.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace tessera::parallel {
namespace {

std::string divisors(int64_t n) {
  std::vector<std::string> found;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) found.push_back(std::to_string(d));
  }
  return join(found);
}

void require_divisor(const char* key, int64_t value, const char* what, int64_t whole) {
  if (value >= 1 && whole % value == 0) return;
  throw ConfigError(detail::concat(key, " = ", value, " must divide ", what, " = ", whole, "; use ",
                                   divisors(whole)));
}

}  // namespace

const std::vector<std::string>& pipeline_schedule_names() {
  static const std::vector<std::string> names = {"gpipe", "1f1b",     "interleaved", "zb_h1",
                                                 "zb_v",  "dualpipe", "dualpipe_v"};
  return names;
}

void ParallelConfig::validate(int64_t world_size) const {
  TESSERA_CHECK(world_size >= 1);
  require_divisor("parallel.pp", pp, "the world size", world_size);
  require_divisor("parallel.ep", ep, "dp", world_size / pp);
  if (ranks_per_node < 0) throw ConfigError(detail::concat("parallel.ranks_per_node = ", ranks_per_node, " must be 0 (ask the hosts) or more"));
  const auto& names = pipeline_schedule_names();
  if (std::find(names.begin(), names.end(), pipeline_schedule) == names.end()) {
    const std::string nearest = nearest_name(pipeline_schedule, names);
    throw ConfigError(detail::concat("parallel.pipeline_schedule = ", pipeline_schedule, " is unknown",
                                     nearest.empty() ? "" : "; did you mean " + nearest + "?", "; use ",
                                     join(names)));
  }
  if (zero != 1 && zero != 2)
    throw ConfigError(detail::concat("parallel.zero = ", zero, " is not supported; use 1 (the optimizer's state is sharded) or 2 (gradients too)"));
  if (zero == 2 && pp > 1 && pipeline_schedule == "dualpipe")
    throw ConfigError("parallel.zero = 2 reduces gradients after every micro-batch, and the two copies of dualpipe's stages take them in "
                      "different orders; use 1, or the schedule dualpipe_v");
}

MeshLayout::MeshLayout(int64_t world_size, const ParallelConfig& config) {
  config.validate(world_size);
  pp_ = config.pp;
  dp_ = world_size / pp_;
  ep_ = config.ep;
}

const std::vector<std::string>& MeshLayout::axes() {
  static const std::vector<std::string> names = {"pp", "dp", "ep", "edp"};
  return names;
}

int64_t MeshLayout::size(std::string_view axis) const {
  if (axis == "pp") return pp_;
  if (axis == "dp") return dp_;
  if (axis == "ep") return ep_;
  TESSERA_CHECK(axis == "edp", "no mesh axis is called ", axis);
  return dp_ / ep_;
}

int64_t MeshLayout::coordinate(std::string_view axis, int64_t rank) const {
  TESSERA_CHECK(rank >= 0 && rank < world_size());
  if (axis == "pp") return rank / dp_;
  if (axis == "dp") return rank % dp_;
  if (axis == "ep") return rank % dp_ % ep_;
  TESSERA_CHECK(axis == "edp", "no mesh axis is called ", axis);
  return rank % dp_ / ep_;
}

std::vector<int64_t> MeshLayout::group(std::string_view axis, int64_t rank) const {
  // Distance between neighbours along the axis; the coordinate tells how many of them lie below `rank`.
  const int64_t stride = axis == "pp" ? dp_ : axis == "edp" ? ep_ : 1;
  const int64_t first = rank - coordinate(axis, rank) * stride;
  std::vector<int64_t> ranks(size(axis));
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = first + static_cast<int64_t>(i) * stride;
  return ranks;
}

Mesh::Mesh(Communicator& world, const ParallelConfig& config)
    : world_(world), layout_(world.size(), config) {
  for (const std::string& name : MeshLayout::axes()) {
    if (layout_.size(name) == 1) {
      communicators_.emplace(name, make_self_communicator(name));
      continue;
    }
    std::vector<int> colors;
    for (int rank = 0; rank < world.size(); ++rank) colors.push_back(static_cast<int>(layout_.group(name, rank).front()));
    communicators_.emplace(name, world.split(colors, name));
  }
  if (layout_.size("ep") > 1) find_nodes(config.ranks_per_node);
}

// Two hops need nodes of equal size, more than one of them and more than one rank on each, as ranks are numbered.
void Mesh::find_nodes(int64_t ranks_per_node) {
  std::vector<int> nodes = world_.nodes();
  for (size_t rank = 0; ranks_per_node > 0 && rank < nodes.size(); ++rank) nodes[rank] = static_cast<int>(static_cast<int64_t>(rank) / ranks_per_node);
  const int64_t ep = layout_.size("ep");
  int64_t width = 0;  // ranks of an expert group on each node, the same everywhere
  for (int64_t first = 0; first < layout_.world_size(); first += ep) {
    const auto begin = nodes.begin() + first, end = begin + ep;
    const int64_t here = std::count(begin, end, *begin);
    if (width == 0) width = here;
    if (here != width || here == 1 || here == ep || ep % here != 0) return;
    for (int64_t i = 0; i < ep; ++i)
      if (begin[i] != begin[i / here * here] || (i >= here && begin[i] == begin[i - here])) return;
  }
  std::vector<int> across, within;
  for (int rank = 0; rank < world_.size(); ++rank) {
    const auto place = static_cast<int>(rank % ep);
    const auto group = static_cast<int>(rank / ep * ep);
    across.push_back(group + place % static_cast<int>(width));
    within.push_back(group + place / static_cast<int>(width));
  }
  across_nodes_ = world_.split(across, "ep across nodes");
  within_node_ = world_.split(within, "ep within node");
}

ExpertAxis Mesh::experts() const { return {&axis("ep"), across_nodes_.get(), within_node_.get()}; }

Communicator& Mesh::axis(std::string_view name) const {
  const auto found = communicators_.find(name);
  TESSERA_CHECK(found != communicators_.end(), "no mesh axis is called ", name);
  return *found->second;
}

std::string Mesh::describe() const {
  return detail::concat("pp ", size("pp"), " x dp ", size("dp"), " (ep ", size("ep"), " x edp ", size("edp"),
                        ")");
}

}  // namespace tessera::parallel
