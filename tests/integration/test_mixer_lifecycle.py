"""The mixer as a process: it starts, says what is wrong when it cannot, and never leaves anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from stagebox.errors import ConfigError
from support.cluster import Cluster, running_mixer
from support.leaks import eventually

STAGEBOX = str(Path(sys.executable).with_name("stagebox"))
READY = re.compile(rb"mixer ready: https port (\d+), snake port (\d+)\n")


@dataclass
class MixerProcess:
    process: asyncio.subprocess.Process
    https_port: int
    snake_port: int

    @property
    def nats_pid(self) -> int:
        (child,) = psutil.Process(self.process.pid).children()
        assert child.name() == "nats-server"
        pid: int = child.pid
        return pid


def arguments(mixer_dir: Path, data_dir: Path, *more: str) -> list[str]:
    return [
        "mixer", "run", "--dir", str(mixer_dir), "--data-dir", str(data_dir), "--https-host", "127.0.0.1",
        "--snake-host", "127.0.0.1", "--https-port", "0", "--snake-port", "0", "--log-format", "json", *more,
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def mixer_process(cluster: Cluster, data_dir: Path) -> AsyncIterator[MixerProcess]:
    process = await asyncio.create_subprocess_exec(
        STAGEBOX, *arguments(cluster.mixer_dir, data_dir),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        ready = READY.fullmatch(line)
        assert ready is not None, line
        yield MixerProcess(process, int(ready[1]), int(ready[2]))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run_to_the_end(mixer_dir: Path, data_dir: Path, *more: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        STAGEBOX, *arguments(mixer_dir, data_dir, *more),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    return process.returncode, errors.decode()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_cleanly_with_nothing_left(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    async with mixer_process(cluster, tmp_path / "data") as mixer:
        nats_pid = mixer.nats_pid
        assert is_listening(mixer.https_port)
        assert is_listening(mixer.snake_port)
        mixer.process.send_signal(number)
        async with asyncio.timeout(10):
            assert await mixer.process.wait() == 0
        assert not psutil.pid_exists(nats_pid)
        assert not is_listening(mixer.https_port)
        assert not is_listening(mixer.snake_port)


async def test_a_killed_mixer_takes_its_nats_server_with_it(cluster: Cluster, tmp_path: Path) -> None:
    async with mixer_process(cluster, tmp_path / "data") as mixer:
        nats_pid = mixer.nats_pid
        mixer.process.kill()
        await mixer.process.wait()
        await eventually(lambda: not psutil.pid_exists(nats_pid), timeout=10)
    # What it left on disk is no obstacle.
    async with mixer_process(cluster, tmp_path / "data") as mixer:
        assert is_listening(mixer.snake_port)
        mixer.process.terminate()
        assert await mixer.process.wait() == 0


async def test_a_port_in_use_is_one_clear_error_with_the_flag(cluster: Cluster, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, errors = await run_to_the_end(cluster.mixer_dir, tmp_path / "data", "--snake-port", str(port))
        assert code == ConfigError.exit_code
        complaints = [line for line in errors.splitlines() if not line.startswith("{")]
        assert complaints == [
            f"error: cannot listen on 127.0.0.1 port {port}: Address already in use",
            "  try: stop what uses it, or choose another port with --snake-port",
        ]
        with pytest.raises(ConfigError, match=f"port {port}: Address already in use") as caught:
            async with running_mixer(cluster, tmp_path / "data", https_port=port):
                pass
        assert "--https-port" in str(caught.value.remedy)


async def test_a_truncated_key_stops_it_with_a_clear_error(cluster: Cluster, tmp_path: Path) -> None:
    shutil.copytree(cluster.mixer_dir, tmp_path / "mixer")
    key = tmp_path / "mixer" / "issuing-ca.key"
    content = key.read_bytes()
    key.write_bytes(content[: len(content) // 2])
    code, errors = await run_to_the_end(tmp_path / "mixer", tmp_path / "data")
    assert code == 66
    assert "issuing-ca.key" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "data").exists()
    assert key.read_bytes() == content[: len(content) // 2]


@pytest.mark.parametrize("fault", ["missing", "readable by others"])
async def test_a_key_that_cannot_be_trusted_stops_it_and_is_not_replaced(
    cluster: Cluster, tmp_path: Path, fault: str
) -> None:
    shutil.copytree(cluster.mixer_dir, tmp_path / "mixer")
    key = tmp_path / "mixer" / "storage.key"
    if fault == "missing":
        key.unlink()
    else:
        key.chmod(0o644)
    code, errors = await run_to_the_end(tmp_path / "mixer", tmp_path / "data")
    assert code == 66
    assert "storage.key" in errors
    assert "Traceback" not in errors
    assert key.exists() is (fault != "missing")


async def test_a_mixer_that_cannot_start_leaves_nothing_running(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stagebox.errors import StorageError
    from stagebox_mixer.lake.lake import Lake

    async def broken(_lake: Lake) -> None:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(Lake, "open", broken)
    with pytest.raises(StorageError, match="the disk is gone"):
        async with running_mixer(cluster, tmp_path / "data"):
            pass
    assert not psutil.Process(os.getpid()).children()


async def test_a_data_directory_that_takes_no_files_names_the_flag(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    code, errors = await run_to_the_end(cluster.mixer_dir, tmp_path / "file" / "data")
    assert code == 74
    assert str(tmp_path / "file" / "data") in errors
