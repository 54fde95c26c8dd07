"""The leak checker finds each kind of leak; a checker that cannot fail would prove nothing."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from support.leaks import Snapshot, no_leaks, settled_leaks


async def test_a_test_that_cleans_up_passes(tmp_path: Path) -> None:
    async with no_leaks():
        await asyncio.create_task(asyncio.sleep(0))
        thread = threading.Thread(target=lambda: None)
        thread.start()
        (tmp_path / "file").write_bytes(b"x")
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()


async def test_a_task_that_still_runs_is_a_leak() -> None:
    before = Snapshot.take()
    task = asyncio.create_task(asyncio.sleep(60), name="forgotten")
    found = await settled_leaks(before, 0.02)
    task.cancel()
    assert len(found) == 1
    assert "forgotten" in found[0]


async def test_a_thread_that_still_runs_is_a_leak() -> None:
    before, release = Snapshot.take(), threading.Event()
    thread = threading.Thread(target=release.wait, name="forgotten")
    thread.start()
    found = await settled_leaks(before, 0.02)
    release.set()
    thread.join()
    assert len(found) == 1
    assert "forgotten" in found[0]


async def test_an_open_descriptor_is_a_leak() -> None:
    before = Snapshot.take()
    with socket.socket() as forgotten:
        found = await settled_leaks(before, 0.02)
        assert found == [f"descriptor {forgotten.fileno()} -> socket:[{_inode(forgotten)}]"]


@pytest.mark.parametrize("arguments", [["sleep", "60"], ["true"]], ids=["running", "zombie"])
async def test_a_child_process_is_a_leak_even_as_a_zombie(arguments: list[str]) -> None:
    before = Snapshot.take()
    with subprocess.Popen(arguments) as process:  # noqa: ASYNC220 - one that nobody awaits
        found = await settled_leaks(before, 0.05)
        process.kill()
    assert len(found) == 1
    assert f"child process {process.pid}" in found[0]


async def test_the_block_fails_and_says_what_is_left() -> None:
    tasks = []
    with pytest.raises(AssertionError, match=r"left behind: task .*forgotten"):
        async with no_leaks(0.02):
            tasks.append(asyncio.create_task(asyncio.sleep(60), name="forgotten"))
    tasks[0].cancel()


async def test_what_ends_while_settling_is_no_leak() -> None:
    async with no_leaks(1.0):
        tasks = [asyncio.create_task(asyncio.sleep(0.05))]
    assert tasks[0].done()


def _inode(open_socket: socket.socket) -> str:
    return str(Path(f"/proc/self/fd/{open_socket.fileno()}").readlink()).removeprefix("socket:[").rstrip("]")
