#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "rl/rewards/sandbox_inside.h"

namespace tessera::rl {
namespace {

// What programs and their libraries need. Links (/bin on merged systems) stay links.
constexpr const char* kShown[] = {"/usr",
                                  "/bin",
                                  "/sbin",
                                  "/lib",
                                  "/lib32",
                                  "/lib64",
                                  "/etc/alternatives",
                                  "/etc/ld.so.cache",
                                  "/etc/localtime",
                                  "/etc/python3",
                                  "/etc/ssl/openssl.cnf"};
constexpr const char* kDevices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random",
                                    "/dev/urandom"};

constexpr const char* kRoot =
    "/tmp";  // where the new root is put together, over the host's in this namespace only

void make_file(const std::string& path, const std::string& content) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  require_call(fd >= 0 && ::write(fd, content.data(), content.size()) ==
                              static_cast<ssize_t>(content.size()),
               path);
  ::close(fd);
}

/// Binds `source` and what is mounted below it to the same place under the new root, with
/// `attributes` set on all of it.
void bind(const std::string& source, uint64_t attributes) {
  const std::string target = kRoot + source;
  std::filesystem::create_directories(std::filesystem::path(target).parent_path());
  if (std::filesystem::is_directory(source)) {
    std::filesystem::create_directory(target);
  } else {
    make_file(target, "");
  }
  require_call(::mount(source.c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0,
               "mounting " + source);
  mount_attr settings{};
  settings.attr_set = attributes;
  require_call(::syscall(SYS_mount_setattr, AT_FDCWD, target.c_str(), AT_RECURSIVE, &settings,
                         sizeof settings) == 0,
               "making " + source + " read-only");
}

void show(const std::string& source) {
  namespace fs = std::filesystem;
  std::error_code error;
  const auto status = fs::symlink_status(source, error);
  if (error || status.type() == fs::file_type::not_found) return;
  const std::string target = kRoot + source;
  fs::create_directories(fs::path(target).parent_path());
  if (status.type() == fs::file_type::symlink) {
    require_call(::symlink(fs::read_symlink(source).c_str(), target.c_str()) == 0, source);
  } else {
    bind(source, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  }
}

void mount_memory(const std::string& target, const std::string& options, unsigned long flags) {
  require_call(
      ::mount("tmpfs", target.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | flags, options.c_str()) == 0,
      "a file system in memory");
}

}  // namespace

void make_sandbox_root(int64_t file_mb) {
  require_call(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "private mounts");
  // Whatever has a path below /tmp is out of reach from here on, so nothing that is shown may lie
  // there.
  mount_memory(kRoot, "size=256k,nr_inodes=256,mode=755", 0);
  for (const char* path : kShown) show(path);
  for (const char* device : kDevices) bind(device, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
  const std::string root = kRoot;
  require_call(::symlink("/tmp", (root + "/dev/shm").c_str()) == 0, "/dev/shm");
  std::filesystem::create_directories(root + "/etc");
  make_file(root + "/etc/passwd", "sandbox:x:1000:1000::/tmp:/bin/sh\n");
  make_file(root + "/etc/group", "sandbox:x:1000:\n");
  require_call(::mkdir((root + "/tmp").c_str(), 0755) == 0, "/tmp");
  mount_memory(root + "/tmp", detail::concat("size=", file_mb, "m,nr_inodes=4096,mode=700"), 0);

  require_call(::chdir(kRoot) == 0, "the new root");
  require_call(::syscall(SYS_pivot_root, ".", ".") == 0, "changing the root");
  require_call(::umount2(".", MNT_DETACH) == 0, "letting go of the host's files");
  require_call(::mount(nullptr, "/", nullptr,
                       MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, nullptr) == 0,
               "making the root read-only");
  require_call(::chdir("/") == 0, "the new root");
}

}  // namespace tessera::rl
