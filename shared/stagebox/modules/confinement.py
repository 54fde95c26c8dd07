"""What a process that touches a stranger's module gives up before it does. Linux only.

It dies with the thread that started it, gains no privileges, dumps no core, writes no file larger than it is told, and
has a bound on the memory it can write to. Address space is not bounded: the engine reserves gigabytes of it for each
memory that it never touches, which is what keeps a guest in.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def environment() -> dict[str, str]:
    """Return the whole environment such a process is started with."""
    # A threaded BLAS would spin the other cores for nothing.
    return {"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}


def confine(
    parent: int,
    *,
    data_bytes: int,
    descriptors: int,
    file_bytes: int = 0,
    cpu_s: int | None = None,
    nice: int = 0,
) -> None:
    """Give up what is not needed; ``parent`` is the process id of who started us.

    Raises:
        OSError: the kernel refuses. SystemExit: the parent is gone already.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the process that wanted this one is gone")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, data_bytes)
    _limit(resource.RLIMIT_NOFILE, descriptors)
    _limit(resource.RLIMIT_FSIZE, file_bytes)
    if cpu_s is not None:
        _limit(resource.RLIMIT_CPU, cpu_s, 1)
    if nice:
        with contextlib.suppress(PermissionError):  # a service may be forbidden to be modest
            os.nice(nice)


def _limit(which: int, value: int, grace: int = 0) -> None:
    """Set a limit for good; ``grace`` is between the signal that says so and the one that ends the process."""
    _, most = resource.getrlimit(which)
    hard = value + grace if most == resource.RLIM_INFINITY else min(value + grace, most)
    resource.setrlimit(which, (min(value, hard), hard))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), "prctl refused")
