"""The audit on a real nats-server: one chain whoever writes, nothing promised is lost, floods stay within the bound."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from nats.js.api import StorageType, StreamConfig

from stagebox.audit_chain import ChainBroken, ChainReport, ChainVerifier, Head
from stagebox.bus import BusClient, BusOptions
from stagebox.cli import audit_rows
from stagebox.errors import BusError
from stagebox_mixer import streams
from stagebox_mixer.audit import Audit, AuditReader, Row
from stagebox_mixer.audit import stream as stream_module
from stagebox_mixer.limits import LIMITS, MixerLimits
from stagebox_mixer.streams import AUDIT_STREAM
from support.leaks import eventually
from support.natsd import QUICK, NatsServer

SERVER_OVERHEAD = 300  # docs/reference/audit.md


@contextlib.asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[BusClient]:
    async with BusClient(BusOptions((server.tcp,), "mixer", limits=QUICK)) as bus:
        await bus.wait_connected(5)
        yield bus


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[BusClient]:
    async with connected(server) as bus:
        await streams.ensure(bus.js)
        yield bus


@contextlib.asynccontextmanager
async def started(bus: BusClient, witness: Path | None = None) -> AsyncIterator[Audit]:
    audit = Audit(lambda: bus.js, witness)
    await audit.start()
    try:
        yield audit
    finally:
        await audit.stop()


def row(subject: str, action: str = "approve") -> Row:
    return Row("ops", action, subject, "ok")


async def stored(bus: BusClient) -> list[dict[str, Any]]:
    reader, rows = AuditReader(lambda: bus.js), list[dict[str, Any]]()
    while page := await reader.page(len(rows), 1000):
        rows += [json.loads(found.data) for found in page]
    return rows


async def verified(bus: BusClient) -> ChainReport:
    reader, verifier = AuditReader(lambda: bus.js), ChainVerifier()
    while page := await reader.page(verifier.head.seq, 1000):
        for found in page:
            verifier.add(found.seq, found.data)
    return verifier.finish(await reader.last())


async def test_two_mixers_writing_at_once_make_one_chain(server: NatsServer, bus: BusClient) -> None:
    together = asyncio.Barrier(2)

    async def write(audit: Audit, who: str) -> list[int]:
        numbers: list[int] = []
        for wave, count in enumerate((1, 40, 1, 3, 200, 1, 7, 1, 50)):
            await together.wait()
            numbers += await asyncio.gather(*(audit.record(row(f"{who}.{wave}.{n}")) for n in range(count)))
        return numbers

    async with connected(server) as other, started(bus) as first, started(other) as second:
        ours, theirs = await asyncio.gather(write(first, "a"), write(second, "b"))
        assert sorted(ours + theirs) == list(range(1, 609))
        assert min(ours) < max(theirs), "they did not meet"
        assert min(theirs) < max(ours), "they did not meet"
        rows = await stored(bus)
        assert all(rows[number - 1]["subject"].startswith("a.") for number in ours)
        report = await verified(bus)
        assert report.head == max(first.head(), second.head())


async def test_a_mixer_that_writes_on_end_does_not_shut_out_another(
    server: NatsServer, bus: BusClient
) -> None:
    written = {"a": 0, "b": 0}

    async def write(audit: Audit, who: str) -> None:
        while sum(written.values()) < 400:
            await audit.record(row(who))
            written[who] += 1

    async with connected(server) as other, started(bus) as first, started(other) as second:
        async with asyncio.timeout(20):
            await asyncio.gather(write(first, "a"), write(second, "b"))
    assert min(written.values()) > 40
    await verified(bus)


async def test_a_row_is_in_the_stream_when_record_returns_and_its_number_is_right(bus: BusClient) -> None:
    async with started(bus) as audit:
        for number in range(1, 4):
            assert await audit.record(row(f"rack-{number}")) == number
            message = await bus.js.get_msg(AUDIT_STREAM, seq=number)
            assert json.loads(message.data or b"")["subject"] == f"rack-{number}"
            assert message.subject == "mixer.audit.approve"


async def test_the_audit_of_the_first_release_is_kept_and_chained_from_then_on(
    server: NatsServer,
) -> None:
    async with connected(server) as bus:
        await bus.js.add_stream(
            StreamConfig(
                name=AUDIT_STREAM, subjects=["mixer.audit.>"], storage=StorageType.FILE, deny_purge=True
            )
        )
        old = {"v": 1, "id": "id", "time_ns": 1, "actor": "ops", "action": "approve", "subject": "old",
               "result": "ok", "reason": "", "detail": {}, "count": 1}  # fmt: skip
        for _ in range(3):
            await bus.js.publish("mixer.audit.approve", json.dumps(old, sort_keys=True).encode())
        await streams.ensure(bus.js)
        async with started(bus) as audit:
            await asyncio.gather(*(audit.record(row(str(number))) for number in range(20)))
        report = await verified(bus)
        assert (report.rows, report.unchained) == (23, 3)
        assert (await bus.js.stream_info(AUDIT_STREAM)).config.deny_purge


async def test_a_flood_from_many_sources_stays_within_the_bound_and_every_refusal_is_counted(
    bus: BusClient,
) -> None:
    sources, before = 20_000, (await bus.js.stream_info(AUDIT_STREAM)).state.bytes
    words: dict[str, str | int] = {"message": "\U0001f69a" * 1000}
    async with started(bus) as audit:
        begin = asyncio.get_running_loop().time()
        for number in range(sources):
            host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            audit.refused(Row(host, "connect", host, "refused", "secret", words))
            audit.refused(Row(host, "enroll", "x" * 5000, "refused", "unknown_token"))
            if number % 1000 == 0:
                await asyncio.sleep(0)
    took = asyncio.get_running_loop().time() - begin
    rows = await stored(bus)
    counted: Counter[str] = Counter()
    for found in rows:
        counted[found["action"]] += found["count"]
    assert counted == {"connect": sources, "enroll": sources}
    assert len(rows) <= LIMITS.refusal_burst_rows + LIMITS.refusal_rows_per_s * took + 2
    assert sum(found["count"] for found in rows if found["reason"] == "overflow") >= 2 * sources - len(rows)
    used = (await bus.js.stream_info(AUDIT_STREAM)).state.bytes - before
    assert used <= len(rows) * (LIMITS.refusal_row_bytes + SERVER_OVERHEAD)
    await verified(bus)


async def test_what_the_server_adds_to_a_row_is_within_what_the_reference_says(bus: BusClient) -> None:
    async with started(bus) as audit:
        action = "a" * 63
        await audit.record(row("one", action))
        await asyncio.gather(*(audit.record(row("many", action)) for _ in range(500)))
    state = (await bus.js.stream_info(AUDIT_STREAM)).state
    payload = sum([len(found.data) for found in await AuditReader(lambda: bus.js).page(0, 1000)])
    assert state.bytes - payload <= 501 * SERVER_OVERHEAD


async def test_while_storage_is_away_record_raises_and_afterwards_the_chain_goes_on(
    server: NatsServer, bus: BusClient
) -> None:
    async with started(bus) as audit:
        await audit.record(row("before"))
        await server.stop()
        with pytest.raises(BusError):
            await audit.record(row("away"))
        await server.start()
        await bus.wait_connected(5)
        assert await audit.record(row("after")) == 2
        assert [found["subject"] for found in await stored(bus)] == ["before", "after"]
        await verified(bus)


def stopped(pid: int) -> bool:
    """Whether every thread has taken the signal."""
    states = [
        (task / "stat").read_text().rpartition(")")[2].split()[0]
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    return set(states) == {"T"}


@pytest.mark.parametrize("count", [1, 100])
async def test_a_server_that_does_not_answer_makes_record_raise_and_the_chain_holds_whatever_arrived(
    server: NatsServer, bus: BusClient, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(stream_module, "LIMITS", MixerLimits(audit_publish_s=0.1))
    bus.js._timeout = 0.1
    async with started(bus) as audit:
        await audit.record(row("before"))
        server.suspend(True)
        try:
            await eventually(lambda: stopped(server.pid))
            rows = [audit.record(row(f"silent {number}")) for number in range(count)]
            results = await asyncio.gather(*rows, return_exceptions=True)
        finally:
            server.suspend(False)
        assert all(isinstance(result, BusError) for result in results)
        bus.js._timeout = 5.0
        monkeypatch.undo()
        number = await audit.record(row("after"))
        rows_now = await stored(bus)
        assert rows_now[number - 1]["subject"] == "after"
        assert max(Counter(found["id"] for found in rows_now).values()) == 1
        assert (await verified(bus)).last == number


async def test_a_full_stream_makes_record_raise(server: NatsServer) -> None:
    async with connected(server) as bus:
        config = streams.audit_stream()
        config.max_bytes = 4096
        await bus.js.add_stream(config)
        async with started(bus) as audit:
            with pytest.raises(BusError, match="the audit cannot be used"):
                for number in range(100):
                    await audit.record(row(str(number)))
            results = await asyncio.gather(
                *(audit.record(row(str(number))) for number in range(50)), return_exceptions=True
            )
            assert all(isinstance(result, BusError) for result in results)
        await verified(bus)


async def test_of_a_killed_server_every_row_that_was_promised_is_there(
    server: NatsServer, bus: BusClient
) -> None:
    promised: dict[int, str] = {}

    async def write(audit: Audit, name: str) -> None:
        with contextlib.suppress(BusError):
            for number in range(1000):
                subject = f"{name}.{number}"
                promised[await audit.record(row(subject))] = subject

    async with started(bus) as audit:
        for round_ in range(3):
            writers = [asyncio.create_task(write(audit, f"{round_}.{name}")) for name in range(20)]
            enough = len(promised) + 200
            await eventually(lambda enough=enough: len(promised) >= enough, 20)  # type: ignore[misc]
            await server.stop(kill=True)
            await asyncio.gather(*writers)
            await server.start()
            await bus.wait_connected(5)
        rows = await stored(bus)
        assert {number: rows[number - 1]["subject"] for number in promised} == promised
        report = await verified(bus)
        assert not report.rewound


async def test_an_older_backup_put_back_is_noticed_at_start_and_by_verify(
    server: NatsServer, tmp_path: Path
) -> None:
    data, backup, witness = tmp_path / "js", tmp_path / "backup", tmp_path / "outside" / "audit.json"
    async with connected(server) as bus:
        await streams.ensure(bus.js)
        async with started(bus, witness) as audit:
            await asyncio.gather(*(audit.record(row(f"kept {number}")) for number in range(20)))
            kept = audit.head()
    await server.stop()
    shutil.copytree(data, backup)
    await server.start()
    async with connected(server) as bus, started(bus, witness) as audit:
        await asyncio.gather(*(audit.record(row(f"lost {number}")) for number in range(10)))
        lost = audit.head()
    await server.stop()
    shutil.rmtree(data)
    backup.rename(data)
    await server.start()
    async with connected(server) as bus:
        with pytest.raises(ChainBroken, match="noted by the mixer outside the stream"):
            await verify(bus, lost)
        with structlog.testing.capture_logs() as lines:
            async with started(bus, witness) as audit:
                assert audit.head().seq == kept.seq + 1
        assert [line["event"] for line in lines if line["log_level"] == "error"] == ["audit_rewound"]
        found = (await stored(bus))[-1]
        assert (found["action"], found["reason"]) == ("audit_rewound", "shortened")
        assert (found["detail"]["witness_seq"], found["detail"]["witness_head"]) == tuple(lost)
        assert (found["detail"]["stream_seq"], found["detail"]["stream_head"]) == tuple(kept)
        async with started(bus, witness) as audit:  # said once
            assert audit.head().seq == kept.seq + 1
            assert audit.witness() == audit.head()
            report = await verify(bus, audit.head())
        assert [rewound.seq for rewound in report.rewound] == [kept.seq + 1]
        with pytest.raises(ChainBroken, match="is not the one of the head"):
            await verify(bus, Head(kept.seq + 1, lost.hash))


async def verify(bus: BusClient, witness: Head) -> ChainReport:
    """Run what ``stagebox audit verify`` runs, with the reader in the API's place."""
    reader, loop = AuditReader(lambda: bus.js), asyncio.get_running_loop()
    noted = {"seq": witness.seq, "head": witness.hash}

    async def page(after: int, limit: int) -> dict[str, Any]:
        rows = [{"seq": found.seq, "data": found.data.decode()} for found in await reader.page(after, limit)]
        return {"v": 1, "rows": rows, "last": await reader.last(), "witness": noted}

    def fetch(after: int, limit: int) -> dict[str, Any]:
        return asyncio.run_coroutine_threadsafe(page(after, limit), loop).result(10)

    return await asyncio.to_thread(audit_rows.verify, fetch, None, lambda done, total: None)
