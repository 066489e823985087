# SPDX-License-Identifier: Apache-2.0
"""The default seccomp profile: which system calls the processes of a container may make.

Calls that a program needs for its own files, memory, processes and sockets are allowed. All others fail with EPERM:
those that load code into the kernel, change the machine, or reach objects of others. A capability opens further calls,
since the kernel then checks them itself. The runtime skips names that an architecture or kernel does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

#: By subject. "name/32" means the name with and without 32 (ids on 32-bit machines), "/64" and "/time64" likewise.
# fmt: off
_ALLOWED = {
    "files by path": """
        access chdir chmod chown/32 creat faccessat faccessat2 fchmodat fchmodat2 fchownat fstatat64 futimesat getcwd lchown/32 link
        linkat lstat/64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 readlink readlinkat rename
        renameat renameat2 rmdir stat/64 statfs/64 statx symlink symlinkat truncate/64 umask unlink unlinkat utime utimensat
        utimensat_time64 utimes""",
    "extended attributes": """
        fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr removexattr
        setxattr""",
    "open files": """
        cachestat close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 arm_fadvise64_64 fallocate fchdir fchmod
        fchown/32 fcntl/64 fdatasync flock fstat/64 fstatfs/64 fsync ftruncate/64 getdents/64 ioctl lseek _llseek pread64 preadv
        preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile/64 splice sync sync_file_range sync_file_range2
        arm_sync_file_range syncfs tee vmsplice write writev""",
    "waiting for events": """
        epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
        fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch _newselect pipe pipe2 poll ppoll ppoll_time64
        pselect6 pselect6_time64 select signalfd signalfd4""",
    "asynchronous reads and writes": """
        io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set""",
    "memory": """
        brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap
        msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages""",
    "processes and threads": """
        execve execveat exit exit_group fork vfork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
        get_robust_list set_robust_list get_thread_area set_thread_area set_tid_address getcpu getpgid getpgrp getpid getppid
        getpriority getrlimit ugetrlimit getrusage getsid gettid pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease
        ptrace restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
        sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
        sched_setscheduler sched_yield setpgid setpriority setrlimit setsid times wait4 waitid waitpid""",
    "users and rights": """
        capget capset getegid/32 geteuid/32 getgid/32 getgroups/32 getresgid/32 getresuid/32 getuid/32 landlock_add_rule
        landlock_create_ruleset landlock_restrict_self seccomp setfsgid/32 setfsuid/32 setgid/32 setgroups/32 setregid/32
        setresgid/32 setresuid/32 setreuid/32 setuid/32""",
    "signals": """
        kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
        rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal sigpending sigprocmask sigreturn sigsuspend tgkill
        tkill""",
    "time": """
        adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime/64 clock_nanosleep
        clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun
        timer_gettime/64 timer_settime/64 timerfd_create timerfd_gettime/64 timerfd_settime/64""",
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg send
        sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair""",
    "queues, semaphores and shared memory": """
        ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
        msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget""",
    "facts of the machine": "getrandom sysinfo uname",
    "the processor": "arch_prctl breakpoint cacheflush modify_ldt set_tls",
}
#: Calls that a capability opens: the kernel requires it, or the container is trusted with more.
_WITH_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree
        perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare""",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime/64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}
# fmt: on
#: Execution domains that programs request: Linux, 32 bit, an old version number, and a query of the current one.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
_NEW_NAMESPACES = 0x7E020000
_AF_VSOCK = 40
_EPERM, _ENOSYS = 1, 38
#: Machine as uname says -> architectures whose programs run on it.
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "armv7l": ("SCMP_ARCH_ARM",),
}


def profile(capabilities: Iterable[str], machine: str) -> dict[str, Any]:
    """The "linux.seccomp" of a container with these capabilities, on a machine as `uname -m` names it."""
    granted = frozenset(capabilities)
    names = [name for text in _ALLOWED.values() for name in _expanded(text)]
    for capability, text in _WITH_CAPABILITY.items():
        if capability in granted:
            names += _expanded(text)
    rules = [_rule(sorted(set(names)))]
    rules += [_rule(["personality"], _argument(0, value, "SCMP_CMP_EQ")) for value in _PERSONALITIES]
    # the hypervisor's sockets bypass network namespaces
    rules.append(_rule(["socket"], _argument(0, _AF_VSOCK, "SCMP_CMP_NE")))
    if "CAP_SYS_ADMIN" not in granted:
        rules += _without_new_namespaces(machine)
    found: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": _EPERM, "syscalls": rules}
    architectures = _ARCHITECTURES.get(machine)
    return {**found, "architectures": list(architectures)} if architectures else found


def _without_new_namespaces(machine: str) -> list[dict[str, Any]]:
    """A filter sees clone's flags; those of clone3 are in memory, so its error makes libraries fall back to clone."""
    flags = 1 if machine.startswith("s390") else 0
    return [
        _rule(["clone"], {**_argument(flags, _NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ"), "valueTwo": 0}),
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
    ]


def _rule(names: list[str], argument: dict[str, Any] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    return {**rule, "args": [argument]} if argument else rule


def _argument(index: int, value: int, operator: str) -> dict[str, Any]:
    return {"index": index, "value": value, "op": operator}


def _expanded(text: str) -> list[str]:
    names = []
    for word in text.split():
        name, _, suffix = word.partition("/")
        names += [name, name + suffix] if suffix else [name]
    return names
