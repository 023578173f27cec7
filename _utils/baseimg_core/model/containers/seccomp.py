"""
A seccomp filter for throw-away containers (OCI runtime-spec, config-linux.md, "Seccomp").

It denies what Docker's default profile denies to containers without additional capabilities, and allows every other
system call. Names that the node's libseccomp does not know are ignored by the runtimes.
"""

from __future__ import annotations

from typing import Any

_ENOSYS = 38  # makes glibc fall back to clone(2), whose flags a filter can read
_NEW_USER = 0x10000000  # CLONE_NEWUSER
_DENIED = (
    "_sysctl", "acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module",
    "fanotify_init", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "get_mempolicy",
    "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load",
    "kexec_load", "keyctl", "lookup_dcookie", "mbind", "mount", "mount_setattr", "move_mount", "move_pages",
    "nfsservctl", "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root", "process_vm_readv",
    "process_vm_writev", "query_module", "quotactl", "quotactl_fd", "reboot", "request_key", "set_mempolicy", "setns",
    "settimeofday", "stime", "swapoff", "swapon", "sysfs", "syslog", "umount", "umount2", "unshare", "uselib",
    "userfaultfd", "ustat", "vhangup", "vm86", "vm86old",
)  # fmt: skip


def profile() -> dict[str, Any]:
    """Return the content of ``linux.seccomp``."""
    user_namespace = {"index": 0, "value": _NEW_USER, "valueTwo": _NEW_USER, "op": "SCMP_CMP_MASKED_EQ"}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": list(_DENIED), "action": "SCMP_ACT_ERRNO"},
            {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [user_namespace]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }


def is_supported(version: str) -> bool:
    """True if a runtime filters system calls; ``version`` is what ``runc --version`` or ``crun --version`` prints."""
    return "libseccomp" in version or "+SECCOMP" in version
