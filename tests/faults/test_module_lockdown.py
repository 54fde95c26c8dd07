"""What a host and a compiler cannot do any more, should somebody break out of the engine inside."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from stagebox.modules.lockdown import filter_program
from support.hosting import BLOCK, module_stage, ones, placed, play

ATTEMPT = """
import ctypes, fcntl, mmap, os, socket, sys, threading, time
from stagebox.modules.confinement import confine
from stagebox.modules.lockdown import lock_down
parent = os.getppid()
confine(parent, data_bytes=1 << 30, descriptors=64)
reading, writing = os.pipe()
ours, theirs = socket.socketpair()
lock_down()
inner = []
def other():
    try:
        open("/etc/hostname")
    except PermissionError:
        inner.append(1)
thread = threading.Thread(target=other)
thread.start()
thread.join()
libc = ctypes.CDLL(None, use_errno=True)
def libc_call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0 and ctypes.get_errno() == 1:
        raise PermissionError
attempts = {
    "open": lambda: open("/etc/hostname"),
    "create": lambda: os.open("/tmp/x", os.O_CREAT | os.O_WRONLY),
    "list": lambda: os.listdir("/"),
    "rename": lambda: os.rename("/tmp/x", "/tmp/y"),
    "unlink": lambda: os.unlink("/tmp/x"),
    "make a directory": lambda: os.mkdir("/tmp/stagebox-never"),
    "remove a directory": lambda: os.rmdir("/tmp/stagebox-never"),
    "touch": lambda: os.utime("/tmp"),
    "mode": lambda: os.chmod("/tmp/stagebox-never", 0o777),
    "newest way to set a mode": lambda: libc_call("syscall", 452, -100, b"/tmp/stagebox-never", 0o777, 0),
    "memory of the parent": lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY),
    "ptrace": lambda: libc_call("ptrace", 16, parent, 0, 0),
    "connect": lambda: socket.socket(socket.AF_INET),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "fork": lambda: os.fork() or os._exit(9),
    "kill": lambda: os.kill(parent, 0),
    "signal a thread": lambda: libc_call("tgkill", parent, parent, 0),
    "signal by a pipe": lambda: fcntl.fcntl(reading, fcntl.F_SETOWN, parent),
    "signal by a pipe, the other way": lambda: libc_call("fcntl", reading, 15, (ctypes.c_int * 2)(1, parent)),
    "which signal": lambda: fcntl.fcntl(reading, fcntl.F_SETSIG, 9),
    "signal by a socket": lambda: libc_call("ioctl", ours.fileno(), 0x8901, ctypes.byref(ctypes.c_int(parent))),
    "pidfd": lambda: os.pidfd_open(parent),
    "cores of the parent": lambda: os.sched_setaffinity(parent, {0}),
    "schedule of the parent": lambda: os.sched_setscheduler(parent, os.SCHED_IDLE, os.sched_param(0)),
    "priority of the parent": lambda: os.setpriority(os.PRIO_PROCESS, parent, 19),
    "namespace": lambda: libc_call("unshare", 0x10000000),
    "memory that does not count": lambda: mmap.mmap(-1, 4096),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except PermissionError:
        continue
    sys.exit(f"{name} worked")
mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK)
libc_call("tgkill", os.getpid(), os.getpid(), 0)
sys.exit(0 if inner else "another thread may still open files")
"""


def test_files_network_other_processes_and_new_ones_are_out_of_reach() -> None:
    done = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_host_runs_under_the_filter() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        await play(chain, ones(BLOCK * 2))
        for task in Path(f"/proc/{stage.hosts.pids[0]}/task").iterdir():
            assert "Seccomp:\t2" in (task / "status").read_text()


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Run the filter over a system call as the kernel would, and return what becomes of it."""
    which = ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("=IIQ6Q", number, which, 0, *[*arguments, *[0] * 6][:6])
    steps = list(struct.iter_unpack("=HBBI", filter_program(machine, PROCESS)))
    held = at = 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        match code:
            case 0x20:
                [held] = struct.unpack_from("=I", data, operand)
            case 0x15:
                at += yes if held == operand else no
            case 0x35:
                at += yes if held >= operand else no
            case 0x45:
                at += yes if held & operand else no
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"there is no instruction {code:#x}")


PROCESS = 4711
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, FORBIDDEN, NOT_THERE, KILLED = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
CALLS = {
    # read, openat, clone, tgkill, fcntl, ioctl, mmap, mkdirat, setpriority
    "x86_64": (0, 257, 56, 234, 72, 16, 9, 258, 141),
    "aarch64": (63, 56, 220, 131, 25, 29, 222, 34, 140),
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_decides_as_it_should_on_every_architecture(machine: str) -> None:
    read, openat, clone, tgkill, fcntl, ioctl, mmap, mkdirat, setpriority = CALLS[machine]
    assert verdict(machine, read) == ALLOWED
    assert {verdict(machine, one) for one in (openat, mkdirat, setpriority, 425, 452)} == {FORBIDDEN}
    assert verdict(machine, 435) == NOT_THERE
    assert verdict(machine, read, architecture=0x40000003) == KILLED
    assert verdict(machine, 0x40000000 + read) == FORBIDDEN
    assert verdict(machine, clone, 0x003D0F00) == ALLOWED, "a thread"
    assert verdict(machine, clone, 17) == FORBIDDEN, "a process"
    assert verdict(machine, tgkill, PROCESS, PROCESS, 6) == ALLOWED
    assert verdict(machine, tgkill, 1, 1, 9) == FORBIDDEN
    assert verdict(machine, tgkill, PROCESS | 1 << 32, PROCESS, 6) == ALLOWED, "the kernel takes 32 bits"
    assert {verdict(machine, fcntl, 3, command) for command in (8, 10, 15)} == {FORBIDDEN}
    assert {verdict(machine, fcntl, 3, command) for command in (1, 2, 3, 4, 9, 16, 1030)} == {ALLOWED}
    assert {verdict(machine, ioctl, 3, command) for command in (0x8901, 0x8902, 1 << 32 | 0x8901)} == {
        FORBIDDEN
    }
    assert verdict(machine, ioctl, 3, 0x5451) == ALLOWED
    assert {verdict(machine, mmap, 0, 4096, 3, flags) for flags in (0x21, 0x23)} == {FORBIDDEN}
    assert {verdict(machine, mmap, 0, 4096, 3, flags) for flags in (0x01, 0x22, 0x4022)} == {ALLOWED}


def test_an_architecture_without_a_filter_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import platform

    from stagebox.modules.lockdown import lock_down

    monkeypatch.setattr(platform, "machine", lambda: "m68k")
    with pytest.raises(OSError, match="m68k"):
        lock_down()
    assert os.access("/etc", os.R_OK)
