#include "trainer/tensorboard.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/error.h"
#include "core/file.h"

namespace tessera::trainer {

namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78u : 0u);
    table[i] = value;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

uint32_t masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

template <typename T>
void append_raw(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void append_varint(std::string& out, uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

void append_bytes(std::string& out, int field, const std::string& bytes) {
  append_varint(out, static_cast<uint64_t>(field) << 3 | 2);
  append_varint(out, bytes.size());
  out += bytes;
}

/// Event { double wall_time = 1; int64 step = 2; ... }
std::string event_head(int64_t step) {
  std::string event;
  event.push_back(0x09);
  append_raw(event, std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  event.push_back(0x10);
  append_varint(event, static_cast<uint64_t>(step));
  return event;
}

}  // namespace

uint32_t crc32c(const void* data, size_t size) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const auto* p = static_cast<const unsigned char*>(data); size > 0; ++p, --size)
    crc = kCrcTable[(crc ^ *p) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

TensorboardWriter::TensorboardWriter(const std::filesystem::path& folder) {
  make_directories(folder);
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  path_ = folder / ("events.out.tfevents." + std::to_string(std::time(nullptr)) + "." + host + "." + std::to_string(::getpid()));
  file_ = std::fopen(path_.c_str(), "wb");
  if (file_ == nullptr) throw Error("cannot create " + path_.string() + ": " + std::strerror(errno));
  std::string event = event_head(0);
  append_bytes(event, 3, "brain.Event:2");  // file_version
  record(event);
}

TensorboardWriter::~TensorboardWriter() { std::fclose(file_); }

void TensorboardWriter::scalar(const std::string& tag, int64_t step, float value) {
  std::string entry;  // Summary.Value { string tag = 1; float simple_value = 2; }
  append_bytes(entry, 1, tag);
  entry.push_back(0x15);
  append_raw(entry, value);
  std::string summary;
  append_bytes(summary, 1, entry);
  std::string event = event_head(step);
  append_bytes(event, 5, summary);
  record(event);
}

void TensorboardWriter::flush() { std::fflush(file_); }

void TensorboardWriter::record(const std::string& message) {
  std::string frame;
  append_raw(frame, static_cast<uint64_t>(message.size()));
  append_raw(frame, masked(crc32c(frame.data(), 8)));
  frame += message;
  append_raw(frame, masked(crc32c(message.data(), message.size())));
  if (std::fwrite(frame.data(), 1, frame.size(), file_) != frame.size())
    throw Error("cannot write " + path_.string() + ": " + std::strerror(errno));
}

}  // namespace tessera::trainer
