#include "parallel/replica_groups.h"

#include <algorithm>
#include <set>

#include "core/error.h"

namespace tessera::parallel {

namespace {

using Holders = std::set<int32_t>;  // pipeline ranks

Holders holders_of(const Placement& placement, size_t stage) {
  Holders holders;
  for (const auto& route : placement.routes) holders.insert(route[stage]);
  return holders;
}

}  // namespace

ReplicaGroups::ReplicaGroups(const Mesh& mesh, const Placement& placement)
    : stage_(&mesh.axis("dp")), experts_(&mesh.axis("edp")), ends_(&mesh.axis("dp")) {
  const auto here = static_cast<int32_t>(mesh.coordinate("pp"));
  const size_t stages = placement.routes.front().size();
  Holders together;
  for (size_t s = 0; s < stages; ++s) {
    const Holders holders = holders_of(placement, s);
    if (holders.count(here) == 0) continue;
    TESSERA_CHECK(together.empty() || together == holders, "the stages of a rank lie on different ranks besides");
    together = holders;
  }
  TESSERA_CHECK(!together.empty(), "pipeline rank ", here, " holds no stage");
  const auto split = [&](const auto& color_of, const char* axis) {
    std::vector<int> colors;
    for (int64_t rank = 0; rank < mesh.layout().world_size(); ++rank)
      colors.push_back(color_of(static_cast<int32_t>(mesh.layout().coordinate("pp", rank)), static_cast<int>(mesh.layout().coordinate("ep", rank))));
    owned_.push_back(mesh.world().split(colors, axis));
    return owned_.back().get();
  };
  const bool copies = placement.routes.size() > 1;  // the same on every rank, and so are the splits
  if (copies) {
    const int ep = static_cast<int>(mesh.size("ep"));
    const auto first_holder = [&](int32_t pp) { return *holders_of(placement, static_cast<size_t>(placement.stages_of(pp).front())).begin(); };
    stage_ = split([&](int32_t pp, int) { return first_holder(pp); }, "replicas");
    experts_ = split([&](int32_t pp, int ep_rank) { return first_holder(pp) * ep + ep_rank; }, "expert replicas");
    ends_ = stage_;
  }
  const Holders head = holders_of(placement, 0), tail = holders_of(placement, stages - 1);
  if (head != tail) {
    const auto color = [&](int32_t pp, int) { return head.count(pp) > 0 || tail.count(pp) > 0 ? 0 : 1 + pp; };
    ends_ = split(color, "pipeline ends");
  }
}

}  // namespace tessera::parallel
