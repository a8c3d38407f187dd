// What a rank sends, counted by axis of the mesh.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace tessera::parallel {

struct Traffic {
  int64_t operations = 0;
  /// Leaving this rank, as ring algorithms would send them; what stays at the rank does not count. For a group of n: an
  /// all_reduce of B bytes 2 B (n - 1) / n, an all_gather of B (and a reduce_scatter to B) a rank B (n - 1), an all_to_all and an
  /// exchange what goes to others, a broadcast B at its root.
  int64_t bytes = 0;
  /// Time in which at least one operation was under way, and the part of it that this rank spent waiting: communication that
  /// no work hid. A receive counts as under way from when it was asked for.
  double active_seconds = 0, exposed_seconds = 0;

  /// What came after `before`.
  [[nodiscard]] Traffic since(const Traffic& before) const {
    return {operations - before.operations, bytes - before.bytes, active_seconds - before.active_seconds,
            exposed_seconds - before.exposed_seconds};
  }
};

/// The counts of a family of communicators. Used from several threads.
class TrafficLedger final {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  void sent(const std::string& axis, int64_t bytes);
  void waited(const std::string& axis, TimePoint begin, TimePoint end);
  void was_active(const std::string& axis, TimePoint begin, TimePoint end);
  [[nodiscard]] std::map<std::string, Traffic> read() const;

 private:
  struct Entry {
    Traffic traffic;
    TimePoint active_until{};  // operations overlap; their common time counts once
  };
  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;
};

}  // namespace tessera::parallel
