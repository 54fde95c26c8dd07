"""A throw-away cluster with its mixer as a process of its own, and enrolled racks, for measurements."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stagebox.identity import machine_id
from stagebox_rack import state
from stagebox_rack.state import RackIdentity, StatePaths

STAGEBOX = Path(sys.executable).with_name("stagebox")
_READY = re.compile(r"mixer ready: https port (\d+), snake port (\d+)")
_READY_S = 30.0


@dataclass(frozen=True)
class Stage:
    """What a measurement needs to know. ``mixer_ready_s`` is from spawn to the ready line."""

    directory: Path
    https_port: int
    snake_port: int
    mixer_ready_s: float

    @property
    def mixer(self) -> str:
        """The API's base URL."""
        return f"https://localhost:{self.https_port}"

    @property
    def snake(self) -> str:
        """The snake's URL."""
        return f"wss://localhost:{self.snake_port}"

    @property
    def viewer(self) -> Path:
        """A viewer's identity directory."""
        return self.directory / "viewer"

    def state_dir(self, rack: str) -> Path:
        """A rack's state directory."""
        return self.directory / f"state-{rack}"

    def token(self, rack: str) -> dict[str, str]:
        """Make a one-time token."""
        out = cli("admin", "token", "create", "--rack", rack, "--json", "--mixer", self.mixer,
                  "--identity", str(self.directory / "ops"))  # fmt: skip
        return dict(json.loads(out))

    def enroll_command(self, rack: str) -> list[str]:
        """The command line that enrolls ``rack``."""
        made = self.token(rack)
        return [str(STAGEBOX), "admin", "enroll", "--mixer", self.mixer, "--token", made["token"],
                "--ca-pin", made["ca_pin"], "--state-dir", str(self.state_dir(rack))]  # fmt: skip

    def enroll(self, rack: str) -> RackIdentity:
        """Enroll ``rack`` and return its identity."""
        subprocess.run(self.enroll_command(rack), check=True, capture_output=True)
        return state.load(StatePaths(self.state_dir(rack)), machine_id=machine_id())

    def rack_command(self, rack: str, *options: str) -> list[str]:
        """The command line that runs ``rack``."""
        return [str(STAGEBOX), "rack", "run", "--state-dir", str(self.state_dir(rack)), *options]


def cli(*words: str) -> str:
    """Run a stagebox command and return what it printed."""
    return subprocess.run([STAGEBOX, *words], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Make a cluster, start its mixer, and take everything down again."""
    with tempfile.TemporaryDirectory(prefix="stagebox-bench-") as name:
        directory = Path(name)
        cluster = directory / "cluster"
        cli("keys", "gen-cluster", "--dir", str(cluster), "--name", "bench", "--no-passphrase")
        for role, client in (("admin", "ops"), ("viewer", "viewer")):
            cli("keys", "gen-client", "--dir", str(cluster), "--role", role, "--name", client,
                "--out", str(directory / client))  # fmt: skip
        with running_mixer(cluster / "mixer", directory / "mixer.log") as (ready_s, https, snake):
            yield Stage(directory, https, snake, ready_s)


@contextlib.contextmanager
def running_mixer(mixer_dir: Path, log: Path, data: Path | None = None) -> Iterator[tuple[float, int, int]]:
    """Run a mixer; yields (seconds from spawn to ready, HTTPS port, snake port)."""
    command = [str(STAGEBOX), "mixer", "run", "--dir", str(mixer_dir), "--https-host", "127.0.0.1",
               "--https-port", "0", "--snake-host", "127.0.0.1", "--snake-port", "0"]  # fmt: skip
    command += [] if data is None else ["--data-dir", str(data)]
    with log.open("ab") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            found = _READY.match(process.stdout.readline())
            if found is None:
                raise RuntimeError(f"the mixer did not start:\n{log.read_text()}")
            yield time.perf_counter() - started, int(found[1]), int(found[2])
        finally:
            stop(process)


def stop(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a process and its pipes."""
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def pace(start: float, index: int, interval: float) -> None:
    """Wait until tick ``index`` of a clock that started at ``start`` (perf_counter seconds)."""
    await asyncio.sleep(max(0.0, start + index * interval - time.perf_counter()))
