"""The default seccomp profile: what an ordinary container may ask of the kernel.

An allow-list. What is not on it fails with EPERM, and so does whatever a
future kernel adds. Left out is what reaches beyond the container (modules,
clocks, mounts, namespaces, tracing of kernel internals, the key rings, which
know no namespaces), what is old and unused, and io_uring, whose operations a
filter doesn't see. A capability that the container holds opens the calls that
it is for: they are useless without it, so the list costs nothing.

Sources: the kernel's syscall tables, capabilities(7), and Docker's published
list of what its default blocks and why (docs.docker.com/engine/security/seccomp).
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from typing import Any, Final

ALLOW: Final = "SCMP_ACT_ALLOW"
ERRNO: Final = "SCMP_ACT_ERRNO"
EPERM: Final = 1
ENOSYS: Final = 38

# The machine's own calls first, then those of the smaller machines that it also runs programs of.
ARCHITECTURES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}

# By purpose. Names that one of the architectures lacks are ignored there; so are those newer than its libseccomp.
_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents
    getdents64 ioctl lchown lchown32 link linkat _llseek lseek lstat lstat64 mkdir mkdirat mknod mknodat
    name_to_handle_at newfstatat oldfstat oldlstat oldstat open openat openat2 pread64 preadv preadv2 pwrite64
    pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile sendfile64
    splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64
    umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev cachestat
"""
_ATTRIBUTES = """
    fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr
    removexattr setxattr getxattrat listxattrat removexattrat setxattrat
"""
_MEMORY = """
    brk madvise map_shadow_stack memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap
    mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages
    membarrier
"""
_PROCESSES = """
    execve execveat exit exit_group fork getpgid getpgrp getpid getppid getpriority getsid gettid kill
    pidfd_open pidfd_send_signal prctl rseq set_robust_list get_robust_list set_thread_area get_thread_area
    set_tid_address setpgid setpriority setsid tgkill tkill vfork wait4 waitid waitpid futex futex_requeue
    futex_time64 futex_wait futex_waitv futex_wake restart_syscall seccomp landlock_add_rule
    landlock_create_ruleset landlock_restrict_self getcpu getrusage
"""
_SCHEDULING = """
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield ioprio_get ioprio_set
"""
_IDENTITIES = """
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32
    getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32
"""
_SIGNALS = """
    alarm pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signal signalfd signalfd4 sigaction
    sigpending sigprocmask sigreturn sigsuspend
"""
_TIME = """
    adjtimex clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times
"""
_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch _newselect poll ppoll
    ppoll_time64 pselect6 pselect6_time64 select io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit
"""
_MESSAGES = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 semctl semget semop semtimedop semtimedop_time64 shmat shmctl
    shmdt shmget
"""
_NETWORK = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64
    recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
_SYSTEM = (
    "getrandom getrlimit prlimit64 setrlimit sysinfo ugetrlimit uname lsm_get_self_attr lsm_list_modules"
)
_TRACING = "process_vm_readv process_vm_writev ptrace"  # safe towards seccomp from Linux 4.8 on; we need 5.12

EVERYONE: Final = tuple(
    " ".join(
        (
            *(_FILES, _ATTRIBUTES, _MEMORY, _PROCESSES, _SCHEDULING, _IDENTITIES, _SIGNALS, _TIME, _WAITING),
            *(_MESSAGES, _NETWORK, _SYSTEM, _TRACING),
        )
    ).split()
)

# Of one kind of machine only.
MACHINES: Final = {
    "x86_64": ("arch_prctl", "modify_ldt"),
    "aarch64": (
        "arm_fadvise64_64",
        "arm_sync_file_range",
        "sync_file_range2",
        "breakpoint",
        "cacheflush",
        "set_tls",
    ),
}

# What a capability opens.
CAPABILITIES: Final = {
    "CAP_BPF": ("bpf",),
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    "CAP_PERFMON": ("perf_event_open",),
    "CAP_SYS_ADMIN": (
        *(
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
        ),
        *("mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd"),
        *("setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare"),
    ),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise"),
    "CAP_SYS_RAWIO": ("ioperm", "iopl"),
    "CAP_SYS_TIME": (
        *("clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "settimeofday", "stime"),
    ),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
    "CAP_SYSLOG": ("syslog",),
}

# CLONE_NEW* (all but time, which clone can't make): a thread or a fork is fine, a namespace is not.
NAMESPACE_FLAGS: Final = 0x7E020000

# Execution domains: Linux, its old 16-bit uname, both with UNAME26; and the question which one it is.
PERSONALITIES: Final = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)

# Sockets of the hypervisor: no namespace keeps containers apart there.
AF_VSOCK: Final = 40


def default_profile(capabilities: Collection[str], machine: str = "") -> dict[str, Any]:
    """The profile, in the runtime specification's form, of a container that holds these capabilities."""
    machine = machine or platform.machine()
    allowed = [*EVERYONE, *MACHINES.get(machine, ())]
    for name in sorted(CAPABILITIES.keys() & set(capabilities)):
        allowed += CAPABILITIES[name]
    rules = [_allow(*sorted(set(allowed)))]
    rules += [_allow("personality", args=[_compare(0, "SCMP_CMP_EQ", value)]) for value in PERSONALITIES]
    rules.append(_allow("socket", args=[_compare(0, "SCMP_CMP_NE", AF_VSOCK)]))
    if "CAP_SYS_ADMIN" not in capabilities:
        flags = {"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append(_allow("clone", args=[flags]))
        # Its flags lie in memory, where a filter can't look. "No such call" makes the C library use clone.
        rules.append({"names": ["clone3"], "action": ERRNO, "errnoRet": ENOSYS})
    return {
        "defaultAction": ERRNO,
        "defaultErrnoRet": EPERM,
        "architectures": list(ARCHITECTURES.get(machine, ())),
        "syscalls": rules,
    }


def _allow(*names: str, args: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"names": list(names), "action": ALLOW, **({"args": args} if args else {})}


def _compare(index: int, operator: str, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": operator}
