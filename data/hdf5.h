// A thin wrapper of the HDF5 C library: handles that close themselves, and one lock, since the
// library's state is global and its Debian build is not thread-safe in every call.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <utility>

namespace tessera::data::hdf5 {

/// Held around every use of the library. Also keeps it from printing errors, which are reported by
/// us.
class Lock final {
 public:
  Lock() : lock_(mutex()) { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

 private:
  static std::recursive_mutex& mutex() {
    static std::recursive_mutex instance;
    return instance;
  }
  std::lock_guard<std::recursive_mutex> lock_;
};

template <herr_t (*kClose)(hid_t)>
class Handle final {
 public:
  Handle() = default;
  explicit Handle(hid_t id) : id_(id) {}
  ~Handle() { reset(); }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  void reset() {
    if (id_ < 0) return;
    const Lock lock;
    kClose(std::exchange(id_, -1));
  }
  [[nodiscard]] hid_t get() const { return id_; }
  [[nodiscard]] bool valid() const { return id_ >= 0; }

 private:
  hid_t id_ = -1;
};

using File = Handle<H5Fclose>;
using Dataset = Handle<H5Dclose>;
using Space = Handle<H5Sclose>;
using Properties = Handle<H5Pclose>;
using Attribute = Handle<H5Aclose>;
using Type = Handle<H5Tclose>;

}  // namespace tessera::data::hdf5
