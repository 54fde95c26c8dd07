"""What a host and a compiler cannot do any more, should somebody break out of the engine inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stagebox.modules.lockdown import filter_program
from support.hosting import BLOCK, module_stage, ones, placed, play

ATTEMPT = """
import ctypes, os, socket, sys, threading
from stagebox.modules.confinement import confine
from stagebox.modules.lockdown import lock_down
confine(os.getppid(), data_bytes=1 << 30, descriptors=64)
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
    "memory of the parent": lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
    "ptrace": lambda: libc_call("ptrace", 16, os.getppid(), 0, 0),
    "connect": lambda: socket.socket(socket.AF_INET),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "fork": lambda: os.fork() or os._exit(9),
    "kill": lambda: os.kill(os.getppid(), 0),
    "pidfd": lambda: os.pidfd_open(os.getppid()),
    "namespace": lambda: libc_call("unshare", 0x10000000),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except PermissionError:
        continue
    sys.exit(f"{name} worked")
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


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_jumps_to_where_it_should(machine: str) -> None:
    program = filter_program(machine)
    steps = [
        (
            int.from_bytes(program[at : at + 2], sys.byteorder),
            program[at + 2],
            program[at + 3],
            int.from_bytes(program[at + 4 : at + 8], sys.byteorder),
        )
        for at in range(0, len(program), 8)
    ]
    end = steps[-7:]
    allow, fail, not_there, argument = (len(steps) - distance for distance in (7, 6, 5, 4))
    assert [step[3] for step in end] == [0x7FFF0000, 0x50001, 0x50026, 16, 0x10000, 0x7FFF0000, 0x50001]
    assert [step[0] for step in end] == [6, 6, 6, 0x20, 0x45, 6, 6]
    goals = [index + 1 + step[1] for index, step in enumerate(steps)]
    assert goals[1] == 3
    assert goals[4:7] == [fail, not_there, argument]
    assert set(goals[7:allow]) == {fail}
    assert {step[0] for step in steps[7:allow]} == {0x15}
    assert all(step[2] == 0 for step in steps[:allow])
    assert all(step[3] < 500 for step in steps[5:allow])
    assert end[4][1:3] == (0, 1)


def test_an_architecture_without_a_filter_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import platform

    from stagebox.modules.lockdown import lock_down

    monkeypatch.setattr(platform, "machine", lambda: "m68k")
    with pytest.raises(OSError, match="m68k"):
        lock_down()
    assert os.access("/etc", os.R_OK)
