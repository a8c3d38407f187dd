// TensorBoard event files: TFRecord-framed protobuf messages with scalar summaries.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>

namespace tessera::trainer {

class TensorboardWriter final {
 public:
  /// Creates `folder`/events.out.tfevents.<time>.<host>. Throws Error if that fails.
  explicit TensorboardWriter(const std::filesystem::path& folder);
  ~TensorboardWriter();
  TensorboardWriter(const TensorboardWriter&) = delete;
  TensorboardWriter& operator=(const TensorboardWriter&) = delete;

  void scalar(const std::string& tag, int64_t step, float value);
  void flush();

 private:
  void record(const std::string& message);
  std::FILE* file_;
  std::filesystem::path path_;
};

/// CRC-32C (Castagnoli) of the bytes; the framing stores a masked form of it.
[[nodiscard]] uint32_t crc32c(const void* data, size_t size);

}  // namespace tessera::trainer
