"""The last thing a process gives up before it touches a stranger's module: opening, connecting, executing, signalling.

A filter of system calls, for good, and for every thread that is started later. Whoever broke out of the engine would be
left with memory, time, and the descriptors that the process was given: no file of the rack or mixer, keys included, no
network, no other process. What is forbidden fails with EPERM; what a running host or compiler does is allowed.
"""

from __future__ import annotations

import ctypes
import errno
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
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data
_CLONE_THREAD = 0x0001_0000
_CLONE3 = 435
_X32 = 0x4000_0000  # x86_64's second set of numbers

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
    },
}
_ARCHITECTURES = {"x86_64": (0xC000_003E, 56), "aarch64": (0xC000_00B7, 220)}
"""What the kernel calls the architecture, and its number of ``clone``."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def filter_program(machine: str) -> bytes:
    """Return the filter for an architecture, as struct sock_filter[].

    Raises:
        KeyError: there is none for it.
    """
    numbers = sorted(set(_FORBIDDEN[machine].values()))
    architecture, clone = _ARCHITECTURES[machine]
    count = len(numbers)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, count + 3, 0, _X32),
        (
            _IF_EQUAL,
            count + 3,
            0,
            _CLONE3,
        ),  # what it is for cannot be seen, so threads are made the other way
        (_IF_EQUAL, count + 3, 0, clone),
    ]
    steps += [(_IF_EQUAL, count - index, 0, number) for index, number in enumerate(numbers)]
    steps += [
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL),
        (_RETURN, 0, 0, _NOT_THERE),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_IF_HAS, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def lock_down() -> None:
    """Give it up, in this thread and in those that it starts. The process must have no new privileges.

    Raises:
        OSError: the kernel cannot, or this architecture is not known: then nothing is to be run.
    """
    machine = platform.machine()
    try:
        steps = filter_program(machine)
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
