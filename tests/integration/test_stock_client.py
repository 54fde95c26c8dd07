"""Any NATS client is a subscriber: programs with no Stagebox code, a viewer's certificate, and TLS alone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

import support
from stagebox import subjects
from stagebox.identity import Role
from support.cluster import Cluster, RunningMixer, make_cluster
from support.frames import meter_frame
from support.rackside import connected, rack_options

RACK = "stage-left"
BOOT = bytes(range(16))
SUPPORT = Path(next(iter(support.__path__)))


def frame(seq: int) -> bytes:
    time_ns = 1_700_000_000_000_000_000
    return meter_frame(seq, BOOT, time_ns=time_ns, peak=-18.5, apart=1.75).encode()


async def heard_by(
    mixer: RunningMixer, directory: Path, command: list[str], environment: Mapping[str, str]
) -> dict[str, object]:
    """Start a subscriber, publish frames as a rack until it has one, and return what it printed."""
    rack = await mixer.enroll(directory, RACK)
    identity = mixer.cluster.client(Role.VIEWER)
    process = await asyncio.create_subprocess_exec(
        *command, mixer.snake, str(identity), "rack.*.meter.>",
        stdout=asyncio.subprocess.PIPE, env=dict(environment),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30), connected(rack_options(rack)) as bus:
            assert await process.stdout.readline() == b"subscribed\n"
            bus.publish(subjects.meter(RACK, "main"), frame(7))
            await bus.flush()
            printed: dict[str, object] = json.loads(await process.stdout.readline())
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    return printed


EXPECTED = {
    "subject": "rack.stage-left.meter.main",
    "seq": 7,
    "frames": 2400,
    "rate": 48_000,
    "peak": [-18.5, -20.25],
    "boot": BOOT.hex(),
}


def plain_environment() -> dict[str, str]:
    """An ordinary program's environment: none of our OpenSSL configuration, none of our import paths."""
    ours = ("OPENSSL_CONF", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in ours}


async def test_stock_nats_py_with_a_viewers_certificate_reads_telemetry(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    program = SUPPORT / "stock" / "subscriber.py"
    assert "stagebox" not in program.read_text().replace("Stagebox", "")
    command = [sys.executable, "-I", str(program)]
    assert await heard_by(mixer, tmp_path / "rack", command, plain_environment()) == EXPECTED


async def test_stock_node_with_a_viewers_certificate_reads_telemetry(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    program = shutil.copy(SUPPORT / "node" / "subscriber.mjs", await node_modules())
    assert await heard_by(mixer, tmp_path / "rack", ["node", str(program)], plain_environment()) == EXPECTED


async def test_a_stock_client_with_another_clusters_certificate_gets_nothing(
    mixer: RunningMixer, tmp_path: Path, cluster: Cluster
) -> None:
    # The same program, with the certificate of another cluster's viewer.
    other = make_cluster(tmp_path / "other", "flux-test", datetime.now(UTC)).client(Role.VIEWER)
    shutil.copy(cluster.client(Role.VIEWER) / "ca.pem", other / "ca.pem")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(SUPPORT / "stock" / "subscriber.py"), mixer.snake, str(other), "rack.>",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=plain_environment(),
    )  # fmt: skip
    try:
        async with asyncio.timeout(15):
            assert process.stdout is not None
            assert process.stderr is not None
            line = await process.stderr.readline()
            while line and b"alert" not in line.lower():
                line = await process.stderr.readline()
            assert line
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        output, _ = await process.communicate()
    assert b"subscribed" not in output


async def node_modules() -> Path:
    """Return a directory with the locked packages, installed once per lock into a cache.

    The lock pins every package by hash and names no registry; npm uses the one it is configured with.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: the Node subscriber is not tried")
    source = SUPPORT / "node"
    lock = (source / "package-lock.json").read_bytes()
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "stagebox-tests"
    target = base / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if (target / "complete").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(source / name, target / name)
    process = await asyncio.create_subprocess_exec(
        "npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund",
        cwd=target, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    if process.returncode != 0:
        if any(word in output for word in (b"ENOTFOUND", b"ECONNREFUSED", b"ETIMEDOUT", b"EAI_AGAIN")):
            pytest.skip("the npm registry cannot be reached: the Node subscriber is not tried")
        raise AssertionError(f"npm ci failed: {output.decode(errors='replace')}")
    (target / "complete").touch()
    return target
