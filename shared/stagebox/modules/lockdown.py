"""The last thing a process gives up before it touches a stranger's module: opening, connecting, executing, signalling.

A filter of system calls, for good, and for every thread that is started later. Whoever broke out of the engine would be
left with memory, time, and the descriptors that the process was given: no file of the rack or mixer, keys included, no
network, no other process, neither its signals nor its share of the processor, and no memory beyond its bound. What is
forbidden fails with EPERM; what a running host or compiler does is allowed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# By prctl: a service's own filter may forbid the call that was made for it.
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW = 0x7FFF_0000
_FAIL = 0x0005_0000 | errno.EPERM
_NOT_THERE = 0x0005_0000 | errno.ENOSYS
_KILL = 0x8000_0000
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_IF_HAS = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in struct seccomp_data
_ARGUMENT_AT = (16, 24, 32, 40)  # the lower halves, which are all that the kernel looks at in these calls
_CLONE_THREAD = 0x0001_0000
_CLONE3 = 435
_X32 = 0x4000_0000  # x86_64's second set of numbers

# A descriptor can be told whom to signal when there is something to read, and how: SIGKILL, say.
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20  # both together is memory that counts against no bound

# Numbers from the kernel's tables; those of one line are the same since they are younger than both.
_YOUNG = {
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsmount": 432,
    "pidfd_open": 434,
    "openat2": 437,
    "pidfd_getfd": 438,
    "pidfd_send_signal": 424,
    "mount_setattr": 442,
    "fchmodat2": 452,
    "setxattrat": 463,
    "removexattrat": 466,
}
_FORBIDDEN = {
    "x86_64": {
        **_YOUNG,
        "open": 2,
        "openat": 257,
        "creat": 85,
        "open_by_handle_at": 304,
        "link": 86,
        "linkat": 265,
        "symlink": 88,
        "symlinkat": 266,
        "rename": 82,
        "renameat": 264,
        "renameat2": 316,
        "unlink": 87,
        "unlinkat": 263,
        "truncate": 76,
        "chmod": 90,
        "fchmodat": 268,
        "mount": 165,
        "chroot": 161,
        "socket": 41,
        "socketpair": 53,
        "connect": 42,
        "bind": 49,
        "execve": 59,
        "execveat": 322,
        "fork": 57,
        "vfork": 58,
        "kill": 62,
        "tkill": 200,
        "rt_sigqueueinfo": 129,
        "rt_tgsigqueueinfo": 297,
        "ptrace": 101,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "kcmp": 312,
        "unshare": 272,
        "setns": 308,
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "add_key": 248,
        "keyctl": 250,
        "shmget": 29,
        "shmat": 30,
        "prlimit64": 302,
        "mkdir": 83,
        "mkdirat": 258,
        "rmdir": 84,
        "mknod": 133,
        "mknodat": 259,
        "chown": 92,
        "lchown": 94,
        "fchownat": 260,
        "utime": 132,
        "utimes": 235,
        "futimesat": 261,
        "utimensat": 280,
        "setxattr": 188,
        "lsetxattr": 189,
        "removexattr": 197,
        "lremovexattr": 198,
        "msgget": 68,
        "semget": 64,
        "mq_open": 240,
        "setpriority": 141,
        "sched_setparam": 142,
        "sched_setscheduler": 144,
        "sched_setaffinity": 203,
        "sched_setattr": 314,
        "ioprio_set": 251,
        "migrate_pages": 256,
        "move_pages": 279,
    },
    "aarch64": {
        **_YOUNG,
        "openat": 56,
        "open_by_handle_at": 265,
        "linkat": 37,
        "symlinkat": 36,
        "renameat": 38,
        "renameat2": 276,
        "unlinkat": 35,
        "truncate": 45,
        "fchmodat": 53,
        "mount": 40,
        "chroot": 51,
        "socket": 198,
        "socketpair": 199,
        "connect": 203,
        "bind": 200,
        "execve": 221,
        "execveat": 281,
        "kill": 129,
        "tkill": 130,
        "rt_sigqueueinfo": 138,
        "rt_tgsigqueueinfo": 240,
        "ptrace": 117,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "kcmp": 272,
        "unshare": 97,
        "setns": 268,
        "bpf": 280,
        "perf_event_open": 241,
        "userfaultfd": 282,
        "add_key": 217,
        "keyctl": 219,
        "shmget": 194,
        "shmat": 196,
        "prlimit64": 261,
        "mkdirat": 34,
        "mknodat": 33,
        "fchownat": 54,
        "utimensat": 88,
        "setxattr": 5,
        "lsetxattr": 6,
        "removexattr": 14,
        "lremovexattr": 15,
        "msgget": 186,
        "semget": 190,
        "mq_open": 180,
        "setpriority": 140,
        "sched_setparam": 118,
        "sched_setscheduler": 119,
        "sched_setaffinity": 122,
        "sched_setattr": 274,
        "ioprio_set": 30,
        "migrate_pages": 238,
        "move_pages": 239,
    },
}
_LIMITED = {
    "x86_64": {"clone": 56, "tgkill": 234, "fcntl": 72, "ioctl": 16, "mmap": 9},
    "aarch64": {"clone": 220, "tgkill": 131, "fcntl": 25, "ioctl": 29, "mmap": 222},
}
"""Calls that are allowed for some of what they can do."""

_ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
"""What the kernel calls them."""

_Step = tuple[str, int, str, str, int]
"""A label, the instruction, where it goes if what it asks is so and if not, its operand; empty: the next step."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def filter_program(machine: str, process: int) -> bytes:
    """Return the filter for an architecture, as struct sock_filter[]; ``process`` may signal itself.

    Raises:
        KeyError: there is none for it.
    """
    limited = _LIMITED[machine]
    steps: list[_Step] = [
        ("", _LOAD, "", "", _ARCHITECTURE_AT),
        ("", _IF_EQUAL, "", "foreign", _ARCHITECTURES[machine]),
        ("", _LOAD, "", "", _NUMBER_AT),
        ("", _IF_AT_LEAST, "fail", "", _X32),
        # What it is for cannot be seen, so threads are made the other way.
        ("", _IF_EQUAL, "not there", "", _CLONE3),
    ]
    steps += [("", _IF_EQUAL, name, "", number) for name, number in limited.items()]
    steps += [("", _IF_EQUAL, "fail", "", number) for number in sorted(set(_FORBIDDEN[machine].values()))]
    steps += [
        ("", _RETURN, "", "", _ALLOW),
        ("clone", _LOAD, "", "", _ARGUMENT_AT[0]),
        ("", _IF_HAS, "allow", "fail", _CLONE_THREAD),
        ("tgkill", _LOAD, "", "", _ARGUMENT_AT[0]),
        ("", _IF_EQUAL, "allow", "fail", process),
        ("fcntl", _LOAD, "", "", _ARGUMENT_AT[1]),
        ("", _IF_EQUAL, "fail", "", _F_SETOWN),
        ("", _IF_EQUAL, "fail", "", _F_SETSIG),
        ("", _IF_EQUAL, "fail", "allow", _F_SETOWN_EX),
        ("ioctl", _LOAD, "", "", _ARGUMENT_AT[1]),
        ("", _IF_EQUAL, "fail", "", _FIOSETOWN),
        ("", _IF_EQUAL, "fail", "allow", _SIOCSPGRP),
        ("mmap", _LOAD, "", "", _ARGUMENT_AT[3]),
        ("", _IF_HAS, "", "allow", _MAP_SHARED),
        ("", _IF_HAS, "fail", "allow", _MAP_ANONYMOUS),
        # Jumps go forward only.
        ("allow", _RETURN, "", "", _ALLOW),
        ("fail", _RETURN, "", "", _FAIL),
        ("not there", _RETURN, "", "", _NOT_THERE),
        ("foreign", _RETURN, "", "", _KILL),
    ]
    return _assemble(steps)


def _assemble(steps: list[_Step]) -> bytes:
    place = {label: index for index, (label, *_) in enumerate(steps) if label}

    def distance(label: str, index: int) -> int:
        return place[label] - index - 1 if label else 0

    return b"".join(
        struct.pack("=HBBI", code, distance(yes, index), distance(no, index), operand)
        for index, (_, code, yes, no, operand) in enumerate(steps)
    )


def lock_down() -> None:
    """Give it up, in this thread and in those that it starts. The process must have no new privileges.

    Raises:
        OSError: the kernel cannot, or this architecture is not known: then nothing is to be run.
    """
    machine = platform.machine()
    try:
        steps = filter_program(machine, os.getpid())
    except KeyError:
        raise OSError(errno.ENOSYS, f"there is no filter of system calls for {machine}") from None
    buffer = ctypes.create_string_buffer(steps, len(steps))
    program = _Program(len(steps) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.prctl(
        _PR_SET_SECCOMP,
        ctypes.c_ulong(_MODE_FILTER),
        ctypes.byref(program),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    if done:
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")
