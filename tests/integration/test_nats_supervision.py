"""nats-server dies and comes back: same ports, same data, everybody connected again, and the log says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from stagebox import files, subjects
from stagebox.bus import BusMessage
from stagebox.errors import BusError, StorageError
from stagebox.identity import Role
from stagebox_mixer import streams
from stagebox_mixer.nats import server
from support.cluster import Cluster, RunningMixer, running_mixer
from support.leaks import eventually
from support.rackside import Journal, client_options, connected, rack_options, store, until

RACK = "stage-left"


def nats_pid(mixer: RunningMixer) -> int:
    assert mixer.mixer.nats is not None
    pid = mixer.mixer.nats.pid
    assert pid is not None
    return pid


async def test_a_killed_nats_server_is_restarted_and_nothing_acknowledged_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    got: list[BusMessage] = []
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        assert mixer.mixer.nats is not None
        rack = await mixer.enroll(tmp_path / "rack", RACK)
        journal = Journal(RACK, rack.key)
        viewer_options = client_options(mixer.snake, cluster.client_tls(Role.VIEWER))
        async with connected(rack_options(rack)) as bus, connected(viewer_options) as viewer:
            await viewer.subscribe("rack.>", callback=got.append)
            acknowledged = [await store(bus, RACK, journal.signed(b"%d" % number)) for number in range(5)]
            ports = (mixer.mixer.snake_port, mixer.mixer.nats.config.loopback.port)
            old = nats_pid(mixer)
            with capture_logs() as logs:
                os.kill(old, signal.SIGKILL)
                await eventually(lambda: bus.stats().connects == 2 and viewer.stats().connects == 2, 15)
            died = [entry for entry in logs if entry["event"] == "nats_server_died"]
            assert [(entry["code"], entry["log_level"]) for entry in died] == [(-signal.SIGKILL, "error")]
            assert died[0]["restart_in_s"] > 0
            assert nats_pid(mixer) != old
            assert (mixer.mixer.snake_port, mixer.mixer.nats.config.loopback.port) == ports
            assert mixer.mixer.health()["nats_restarts"] == 1

            async def everything_works_again() -> bool:
                try:
                    for sequence in acknowledged:
                        await mixer.bus.js.get_msg(streams.WAL_STREAM, seq=sequence)
                    return (await mixer.registry.rack(RACK)) is not None
                except (BusError, TimeoutError):
                    return False

            await until(everything_works_again)
            got.clear()
            bus.publish(subjects.event(RACK), b"again")
            await eventually(lambda: [message.payload for message in got] == [b"again"])
            await store(bus, RACK, journal.signed(b"5"))

            async def committed() -> bool:
                return bool(mixer.mixer.health()["wal_batches_committed"] == 6)

            await until(committed)
            assert await mixer.create_token("stage-right")


async def test_restarts_back_off_and_stop_with_the_mixer(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        with capture_logs() as logs:
            for restart in range(3):
                os.kill(nats_pid(mixer), signal.SIGKILL)
                await eventually(
                    lambda count=restart: sum(e["event"] == "nats_server_ready" for e in logs) == count + 1,  # type: ignore[misc]
                    10,
                )
        waits = [entry["restart_in_s"] for entry in logs if entry["event"] == "nats_server_died"]
        assert waits == sorted(waits)
        assert waits[-1] > waits[0]
        last = nats_pid(mixer)
    assert not psutil.pid_exists(last)


async def test_a_nats_server_that_cannot_start_says_why(cluster: Cluster, tmp_path: Path) -> None:
    store_dir = tmp_path / "data" / "jetstream"
    store_dir.mkdir(parents=True)
    (store_dir / "jetstream").write_bytes(b"a file where the store must be")
    with pytest.raises(BusError, match=r"nats-server ended with code 1: .*not a directory"):
        async with running_mixer(cluster, tmp_path / "data"):
            pass


async def test_a_disk_that_takes_no_configuration_does_not_end_the_supervision(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        original: Callable[..., None] = files.write_atomic
        failures: list[Path] = []

        def full(path: Path, data: bytes, *, mode: int = 0o600) -> None:
            if not failures:
                failures.append(path)
                raise StorageError("no space left on device")
            original(path, data, mode=mode)

        monkeypatch.setattr(server, "write_atomic", full)
        with capture_logs() as logs:
            os.kill(nats_pid(mixer), signal.SIGKILL)
            await eventually(lambda: any(e["event"] == "nats_server_ready" for e in logs), 10)
        died = [entry["last_error"] for entry in logs if entry["event"] == "nats_server_died"]
        assert died[-1] == "no space left on device"
        await until(lambda: reachable(mixer))


async def reachable(mixer: RunningMixer) -> bool:
    try:
        await mixer.registry.all_racks()
    except BusError:
        return False
    return True
