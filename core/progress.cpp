#include "core/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/text.h"

namespace tessera {

namespace {
constexpr int kBarWidth = 24;
double seconds_between(auto from, auto to) { return std::chrono::duration<double>(to - from).count(); }
}  // namespace

Progress::Progress(std::string title, int64_t total, std::string unit, bool enabled, int64_t start)
    : title_(std::move(title)), unit_(std::move(unit)), total_(total), start_(start), done_(start), enabled_(enabled),
      terminal_(::isatty(STDERR_FILENO) == 1), begin_(Clock::now()), last_draw_(begin_) {}

Progress::~Progress() { finish(); }

void Progress::update(int64_t done, const std::string& note) {
  done_ = done;
  note_ = note;
  if (!enabled_) return;
  const auto now = Clock::now();
  // A terminal is redrawn smoothly; a log file gets a line every ten seconds.
  if (drawn_ && seconds_between(last_draw_, now) < (terminal_ ? 0.1 : 10.0)) return;
  last_draw_ = now;
  draw(false);
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  if (enabled_ && done_ > start_) draw(true);
}

void Progress::draw(bool last) {
  drawn_ = true;
  const double elapsed = seconds_between(begin_, Clock::now());
  const double rate = elapsed > 0 ? static_cast<double>(done_ - start_) / elapsed : 0;
  std::string tail = last ? "in " + format_seconds(elapsed)
                     : rate > 0 ? format_seconds(static_cast<double>(total_ - done_) / rate) + " left" : "";
  std::string line = title_ + " ";
  if (terminal_) {
    const int filled = total_ > 0 ? static_cast<int>(std::min<int64_t>(kBarWidth, done_ * kBarWidth / total_)) : 0;
    line += "[" + std::string(static_cast<size_t>(filled), '#') + std::string(static_cast<size_t>(kBarWidth - filled), '.') + "] ";
  }
  char numbers[96];
  std::snprintf(numbers, sizeof numbers, "%lld/%lld %s  %.3g %s/s  ", static_cast<long long>(done_),
                static_cast<long long>(total_), unit_.c_str(), rate, unit_.c_str());
  line += numbers + tail + (note_.empty() ? "" : "  " + note_);
  std::fprintf(stderr, terminal_ ? (last ? "\r\033[K%s\n" : "\r\033[K%s") : "%s\n", line.c_str());
  std::fflush(stderr);
}

}  // namespace tessera
