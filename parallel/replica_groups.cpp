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
  const auto split = [&](int color, const char* axis) {
    owned_.push_back(mesh.world().split(color, mesh.world().rank(), axis));
    return owned_.back().get();
  };
  const bool copies = placement.routes.size() > 1;  // the same on every rank, and so are the splits
  if (copies) {
    const int first = *together.begin(), ep = static_cast<int>(mesh.size("ep"));
    stage_ = split(first, "replicas");
    experts_ = split(first * ep + static_cast<int>(mesh.coordinate("ep")), "expert replicas");
    ends_ = stage_;
  }
  const Holders head = holders_of(placement, 0), tail = holders_of(placement, stages - 1);
  if (head != tail) {
    const bool at_end = head.count(here) > 0 || tail.count(here) > 0;
    ends_ = split(at_end ? 0 : 1 + here, "pipeline ends");
  }
}

}  // namespace tessera::parallel
