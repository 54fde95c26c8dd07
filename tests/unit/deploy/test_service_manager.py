"""What the services tell systemd, heard by a socket that stands in for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

WATCHDOG_S = 1.0


class Manager:
    """systemd's end of the notification protocol (sd_notify(3))."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(directory / "notify"))
        self.environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(directory / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        }
        self.environment.pop("WATCHDOG_PID", None)

    def hear(self, within_s: float) -> list[str]:
        """Return the lines of the next message; TimeoutError if none comes."""
        self._socket.settimeout(within_s)
        return self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


def start(manager: Manager, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "stagebox.cli", *command],
        env=manager.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_rack_that_waits_for_enrollment_is_ready_and_keeps_the_watchdog_quiet(
    tmp_path: Path, manager: Manager
) -> None:
    command = ("rack", "run", "--state-dir", str(tmp_path / "state"), "--source", "tone:997@-23")
    with start(manager, *command, "--wait-for-enrollment") as rack:
        try:
            assert manager.hear(30) == ["READY=1", "STATUS=waiting for enrollment"]
            for _ in range(3):
                assert manager.hear(WATCHDOG_S) == ["WATCHDOG=1"]
            rack.send_signal(signal.SIGTERM)
            assert rack.wait(10) == 0
        finally:
            rack.kill()


def test_a_mixer_says_ready_then_feeds_the_watchdog_then_says_stopping(
    tmp_path: Path, manager: Manager
) -> None:
    cluster = tmp_path / "cluster"
    subprocess.run(
        [sys.executable, "-m", "stagebox.cli", "keys", "gen-cluster", "--dir", str(cluster), "--name", "flux",
         "--no-passphrase"], check=True, capture_output=True,
    )  # fmt: skip
    ports = (
        "--https-host",
        "127.0.0.1",
        "--https-port",
        "0",
        "--snake-host",
        "127.0.0.1",
        "--snake-port",
        "0",
    )
    with start(manager, "mixer", "run", "--dir", str(cluster / "mixer"), *ports) as mixer:
        try:
            assert manager.hear(30) == ["READY=1"]
            for _ in range(3):
                assert manager.hear(WATCHDOG_S) == ["WATCHDOG=1"]
            mixer.send_signal(signal.SIGTERM)
            heard = manager.hear(5)
            while heard == ["WATCHDOG=1"]:
                heard = manager.hear(5)
            assert heard == ["STOPPING=1"]
            assert mixer.wait(20) == 0
        finally:
            mixer.kill()
