#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <vector>

#include "core/error.h"
#include "rl/rewards/sandbox_inside.h"

namespace tessera::rl {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
constexpr uint32_t kArchitecture = 0;
#endif

// Calls beyond the newest that this list was made for are not there, whatever they will do.
constexpr uint32_t kFirstUnknownCall = 463;

/// Refused: the network; other processes' memory; mounts and namespaces; the kernel's settings and
/// programs; memory that no limit of a process counts (System V segments, memfd); what has a record
/// of holes and no use here.
constexpr long kRefused[] = {
    SYS_socket,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_pidfd_getfd,
    SYS_process_madvise,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_open_tree,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_unshare,
    SYS_setns,
    SYS_open_by_handle_at,
    SYS_name_to_handle_at,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_quotactl,
    SYS_syslog,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    SYS_adjtimex,
    SYS_vhangup,
    SYS_fanotify_init,
    SYS_memfd_create,
    SYS_memfd_secret,
    SYS_shmget,
    SYS_shmat,
    SYS_msgget,
    SYS_semget,
    SYS_mq_open,
    SYS_mbind,
    SYS_migrate_pages,
    SYS_move_pages,
    SYS_personality,
    SYS_lookup_dcookie,
    SYS_nfsservctl,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef __x86_64__
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
    SYS_uselib,
    SYS_ustat,
    SYS_sysfs,
    SYS__sysctl,
    SYS_create_module,
#endif
};

class Program {
 public:
  void load(size_t offset) {
    code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)));
  }
  void answer(uint32_t action) { code_.push_back(BPF_STMT(BPF_RET | BPF_K, action)); }
  /// Unless the comparison holds, passes over the next `skipped` statements.
  void unless(uint16_t comparison, uint32_t value, uint8_t skipped = 1) {
    code_.push_back(
        BPF_JUMP(static_cast<uint16_t>(BPF_JMP | comparison | BPF_K), value, 0, skipped));
  }
  void refuse_if(uint16_t comparison, uint32_t value, int error) {
    unless(comparison, value);
    answer(SECCOMP_RET_ERRNO | static_cast<uint32_t>(error));
  }
  /// Ends the process unless the value is this one.
  void require(uint32_t value) {
    code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0));
    answer(SECCOMP_RET_KILL_PROCESS);
  }
  void install() {
    const sock_fprog program{static_cast<unsigned short>(code_.size()), code_.data()};
    require_call(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0,
                 "a system call filter");
  }

 private:
  std::vector<sock_filter> code_;
};

constexpr uint32_t kNamespaceFlags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID |
                                     CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;

}  // namespace

void install_call_filter() {
  if (kArchitecture == 0) throw Error("the system call filter knows x86-64 and AArch64 only");
  // The lower half of an argument; both architectures are little-endian.
  const auto argument = [](size_t index) { return offsetof(seccomp_data, args) + 8 * index; };
  Program program;
  program.load(offsetof(seccomp_data, arch));
  program.require(kArchitecture);
  program.load(offsetof(seccomp_data, nr));
  program.refuse_if(BPF_JGE, kFirstUnknownCall, ENOSYS);  // also x32, whose numbers are high
  for (const long call : kRefused) program.refuse_if(BPF_JEQ, static_cast<uint32_t>(call), EPERM);
  program.refuse_if(BPF_JEQ, SYS_clone3,
                    ENOSYS);  // its flags are out of sight; libraries fall back to clone
  program.unless(BPF_JEQ, SYS_clone, 3);
  program.load(argument(0));
  program.refuse_if(BPF_JSET, kNamespaceFlags, EPERM);
  program.load(offsetof(seccomp_data, nr));
  program.unless(BPF_JEQ, SYS_ioctl, 3);
  program.load(argument(1));
  program.refuse_if(BPF_JEQ, TIOCSTI, EPERM);  // types into the terminal
  program.answer(SECCOMP_RET_ALLOW);
  program.install();
}

}  // namespace tessera::rl
