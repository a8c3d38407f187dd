// The mesh: which ranks work together along which axis. World size W = pp x dp; pp is outermost and dp innermost, so
// that a pipeline stage's data-parallel peers are neighbours; expert groups are runs of ep consecutive dp ranks, and
// edp = dp / ep counts them. The recipe names degrees (pp, ep); dp is what is left of the world.
//
// Code asks for an axis by its name, never by position, so that axes for tensor and context parallelism can join.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/communicator.h"

namespace tessera::parallel {

/// The `parallel` section of a recipe.
struct ParallelConfig {
  int64_t pp = 1;
  int64_t ep = 1;
  std::string pipeline_schedule = "1f1b";
  int64_t stages_per_rank = 2;  // of the interleaved schedule; the V-shaped ones have two, the others one
  int64_t zero = 1;
  int64_t ranks_per_node = 0;  // neighbours in rank that share a fast network; 0: those of one host

  /// Throws ConfigError naming the key and what to set, for instance
  /// "parallel.ep = 3 must divide dp = 4; use 1, 2, 4".
  void validate(int64_t world_size) const;
};

/// Names accepted as parallel.pipeline_schedule.
[[nodiscard]] const std::vector<std::string>& pipeline_schedule_names();

/// The arithmetic of the mesh, without communication: what planner and tests use too.
class MeshLayout final {
 public:
  /// Throws ConfigError as ParallelConfig::validate does.
  MeshLayout(int64_t world_size, const ParallelConfig& config);

  /// "pp", "dp", "ep", "edp".
  [[nodiscard]] static const std::vector<std::string>& axes();
  [[nodiscard]] int64_t world_size() const { return pp_ * dp_; }
  [[nodiscard]] int64_t size(std::string_view axis) const;
  /// Position of `rank` along `axis`.
  [[nodiscard]] int64_t coordinate(std::string_view axis, int64_t rank) const;
  /// The ranks that share every other coordinate with `rank`, ordered along `axis`.
  [[nodiscard]] std::vector<int64_t> group(std::string_view axis, int64_t rank) const;

 private:
  int64_t pp_, dp_, ep_;
};

/// The ranks that share out the experts of a layer. Where they fill several nodes evenly, the two hops of a token: first to
/// the ranks that have this rank's place on each node, then to those of this rank's node.
struct ExpertAxis {
  Communicator* ranks = nullptr;
  Communicator *across = nullptr, *within = nullptr;  // null: one hop

  [[nodiscard]] bool shared_out() const { return ranks != nullptr && ranks->size() > 1; }
  [[nodiscard]] bool two_hops() const { return across != nullptr; }
};

/// The layout with one communicator for each axis. Collective over `world`, which must outlive the mesh.
class Mesh final {
 public:
  Mesh(Communicator& world, const ParallelConfig& config);

  [[nodiscard]] const MeshLayout& layout() const { return layout_; }
  [[nodiscard]] Communicator& world() const { return world_; }
  /// The group of this rank along "pp", "dp", "ep" or "edp".
  [[nodiscard]] Communicator& axis(std::string_view name) const;
  [[nodiscard]] int64_t size(std::string_view axis) const { return layout_.size(axis); }
  [[nodiscard]] int64_t coordinate(std::string_view axis) const {
    return layout_.coordinate(axis, world_.rank());
  }
  /// The axis "ep", with its nodes.
  [[nodiscard]] ExpertAxis experts() const;
  /// "pp 2 x dp 4 (ep 2 x edp 2)".
  [[nodiscard]] std::string describe() const;

 private:
  void find_nodes(int64_t ranks_per_node);

  Communicator& world_;
  MeshLayout layout_;
  std::map<std::string, std::unique_ptr<Communicator>, std::less<>> communicators_;
  std::unique_ptr<Communicator> across_nodes_, within_node_;
};

}  // namespace tessera::parallel
