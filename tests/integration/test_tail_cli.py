"""``stagebox tail`` as a process of its own, against a real nats-server over mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from stagebox.bus import BusClient
from support.module_records import module_record
from support.natsd import Authority, NatsServer
from support.ports import free_port
from support.signing import SigningRack

PERIOD_S = 0.02


@contextlib.asynccontextmanager
async def tail(
    server: str, identity: Path, *args: str, pattern: str = "rack.*.meter.>"
) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STAGEBOX_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stagebox.cli", "tail", pattern),
        *("--server", server, "--identity", str(identity), *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=identity,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def publishing(publisher: BusClient, batch: Callable[[], object]) -> AsyncIterator[None]:
    """Publish a batch again and again: the subscriber joins when it is ready."""

    async def run() -> None:
        while True:
            batch()
            await asyncio.sleep(PERIOD_S)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def finished(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(25):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_proved_records_come_out_as_json_and_are_counted(
    server: NatsServer, identity: Path, authority: Authority, publisher: BusClient
) -> None:
    rack = SigningRack(authority)

    def batch() -> None:
        publisher.publish(*rack.meter())
        publisher.publish(rack.checkpoint_subject, rack.checkpoint())

    async with (
        publishing(publisher, batch),
        tail(server.wss, identity, "--verify", "--json", "--count", "5") as process,
    ):
        code, out, err = await finished(process)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0, err
    assert [record["verification"] for record in records] == ["verified"] * 5
    first = records[0]["value"]["seq"]
    assert [record["value"]["seq"] for record in records] == list(range(first, first + 5))
    assert records[0]["subject"] == "rack.stage-left.meter.main"
    assert ", bad 0, lost 0" in err


async def test_what_modules_say_is_shown_proved_and_a_kind_of_a_later_release_is_counted(
    server: NatsServer, identity: Path, authority: Authority, publisher: BusClient
) -> None:
    rack, said = SigningRack(authority), itertools.count(1)
    subject, later = f"rack.{rack.name}.module.spl.leq", f"rack.{rack.name}.later.x"

    def batch() -> None:
        record = module_record(next(said), rack.boot).encode()
        rack.note(subject, record)
        publisher.publish(subject, record)
        publisher.publish(later, b"\xff")
        publisher.publish(rack.checkpoint_subject, rack.checkpoint())

    args = ("--verify", "--json", "--count", "6")
    async with publishing(publisher, batch), tail(server.wss, identity, *args, pattern="rack.>") as process:
        code, out, err = await finished(process)
    assert code == 0, err
    shown = [json.loads(line) for line in out.splitlines()]
    modules = [record for record in shown if record["kind"] == "module"]
    assert {record["verification"] for record in shown} == {"verified"}
    assert len(modules) >= 2
    assert (modules[0]["subject"], modules[0]["leaf"], modules[0]["out"]) == (subject, "spl", "leq")
    assert modules[0]["value"]["data"]["seconds"] == 1
    assert "of kinds this version does not know" in err


async def test_without_verify_every_line_says_unverified(
    server: NatsServer, identity: Path, authority: Authority, publisher: BusClient
) -> None:
    rack = SigningRack(authority)
    async with (
        publishing(publisher, lambda: publisher.publish(*rack.meter())),
        tail(server.wss, identity, "-n", "3") as process,
    ):
        code, out, _ = await finished(process)
    assert code == 0
    assert ["unverified" in line for line in out.splitlines()] == [True] * 3


async def test_a_forged_record_stops_with_77(
    server: NatsServer, identity: Path, authority: Authority, publisher: BusClient
) -> None:
    rack = SigningRack(authority)

    def batch() -> None:
        subject, _ = rack.meter()
        publisher.publish(subject, rack.frame(rack.seq + 1, peak=6.0))
        publisher.publish(rack.checkpoint_subject, rack.checkpoint())

    async with publishing(publisher, batch), tail(server.wss, identity, "--verify") as process:
        code, out, err = await finished(process)
    assert code == 77
    assert out == ""
    assert "error: " in err
    assert "not the one the rack signed" in err


async def test_ctrl_c_ends_with_130_and_the_counts(
    server: NatsServer, identity: Path, authority: Authority, publisher: BusClient
) -> None:
    rack = SigningRack(authority)
    async with (
        publishing(publisher, lambda: publisher.publish(*rack.meter())),
        tail(server.wss, identity) as process,
    ):
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        code, _, err = await finished(process)
    assert code == 130
    assert err.splitlines()[-1].startswith("received ")
    assert "Traceback" not in err


async def test_a_snake_that_is_not_there_is_an_error_with_its_address(identity: Path) -> None:
    address = f"wss://127.0.0.1:{free_port()}"
    async with tail(address, identity, "--connect-within", "1s") as process:
        code, out, err = await finished(process)
    assert (code, out) == (69, "")
    assert f"error: no connection to {address}" in err


async def test_an_identity_of_another_cluster_is_refused(
    server: NatsServer, tmp_path: Path, identity: Path
) -> None:
    other = Authority(tmp_path / "other")
    (identity / "ca.pem").write_bytes(other.pem)
    async with tail(server.wss, identity) as process:
        code, out, err = await finished(process)
    assert (code, out) == (77, "")
    assert "error: " in err
