// Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace tessera {

class Progress final {
 public:
  /// `unit` names what is counted ("steps", "rows"); `enabled` is false on ranks other than 0 and under --quiet.
  Progress(std::string title, int64_t total, std::string unit, bool enabled, int64_t start = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `note` is shown behind the bar (e.g. "loss 1.23").
  void update(int64_t done, const std::string& note = "");
  /// Ends the line; called by the destructor too.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(bool last);

  std::string title_, unit_, note_;
  int64_t total_, start_, done_;
  bool enabled_, terminal_, finished_ = false, drawn_ = false;
  Clock::time_point begin_, last_draw_;
};

}  // namespace tessera
