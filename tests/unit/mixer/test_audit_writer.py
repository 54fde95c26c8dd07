"""Writers of one audit: whatever gets lost, the chain holds and nobody is told a row is there that is not."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.js import JetStreamContext

from stagebox.audit_chain import EMPTY, ChainVerifier, Head, row_hash
from stagebox.errors import BusError, InputError, StorageError
from stagebox_mixer.audit import witness
from stagebox_mixer.audit import writer as writer_module
from stagebox_mixer.audit.row import Row
from stagebox_mixer.audit.stream import AuditStream, End, Message, Overtaken
from stagebox_mixer.audit.writer import ChainWriter
from stagebox_mixer.limits import LIMITS, MixerLimits

CONNECTION = cast(JetStreamContext, object())
FAULTS = ("none", "none", "answer_lost", "message_lost", "late", "unreadable")


class ModelStream(AuditStream):
    """A stream in memory for one or more writers, with faults from a list."""

    def __init__(self, rows: list[bytes], faults: Sequence[str] = ()) -> None:
        super().__init__(lambda: CONNECTION)
        self.rows = rows
        self.faults = list(faults)
        self.late: list[tuple[list[bytes], int]] = []
        self.unreadable = 0
        self.appends = 0

    async def last(self) -> int:
        await asyncio.sleep(0)
        self._arrive()
        return len(self.rows)

    async def newest(self) -> Head:
        await asyncio.sleep(0)
        return Head(len(self.rows), row_hash(self.rows[-1])) if self.rows else EMPTY

    async def row(self, seq: int) -> bytes | None:
        await asyncio.sleep(0)
        if self.unreadable:
            self.unreadable -= 1
            raise BusError("the audit cannot be used: lost")
        return self.rows[seq - 1] if 0 < seq <= len(self.rows) else None

    async def append(self, connection: JetStreamContext, messages: Sequence[Message], after: int) -> None:
        await asyncio.sleep(0)
        self._arrive()
        self.appends += 1
        data = [message.data for message in messages]
        fault = self.faults.pop() if self.faults else "none"
        if fault == "message_lost":
            raise BusError("the audit cannot be used: lost")
        if fault == "late":  # it is on its way while we are told that it timed out
            self.late.append((data, after))
            raise BusError("the audit cannot be used: timeout")
        if len(self.rows) != after:
            raise Overtaken("the audit went on")
        self.rows += data
        if fault in ("answer_lost", "unreadable"):
            self.unreadable += fault == "unreadable"
            raise BusError("the audit cannot be used: timeout")

    def _arrive(self) -> None:
        for data, after in self.late:
            if len(self.rows) == after:
                self.rows += data
        self.late.clear()


def row(subject: str) -> Row:
    return Row("ops", "approve", subject, "ok")


def verified(rows: Sequence[bytes]) -> Head:
    verifier = ChainVerifier()
    for seq, data in enumerate(rows, 1):
        verifier.add(seq, data)
    return verifier.finish(len(rows)).head


def subjects(rows: Sequence[bytes]) -> list[str]:
    return [json.loads(data)["subject"] for data in rows]


async def write_all(writers: Sequence[ChainWriter], plan: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Let writers write; ``plan`` is (writer, how many rows at once)."""
    jobs = {}
    for number, (who, count) in enumerate(plan):
        for part in range(count):
            subject = f"{number}.{part}"
            jobs[subject] = asyncio.create_task(writers[who % len(writers)].write(row(subject)))
        await asyncio.sleep(0)
    await asyncio.gather(*jobs.values(), return_exceptions=True)
    return {subject: job.exception() or job.result() for subject, job in jobs.items()}


plans = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 12)), max_size=8)


@settings(deadline=None)
@given(plans, st.lists(st.sampled_from(FAULTS), max_size=12), st.integers(0, 3))
def test_two_writers_never_fork_whatever_is_lost(
    plan: list[tuple[int, int]], faults: list[str], unchained: int
) -> None:
    async def run() -> None:
        old = [json.dumps({"v": 1, "id": "", "time_ns": 1, "actor": "", "action": "enroll", "subject": f"old {n}",
                           "result": "ok", "reason": "", "detail": {}, "count": 1}).encode()
               for n in range(unchained)]  # fmt: skip
        stream = ModelStream(list(old), faults)
        heads: list[Head] = []
        results = await write_all([ChainWriter(stream, heads.append) for _ in range(2)], plan)
        await stream.last()
        verified(stream.rows)
        stored = Counter(subjects(stream.rows))
        assert max(stored.values(), default=1) == 1
        for subject, result in results.items():
            if isinstance(result, int):
                assert subjects(stream.rows)[result - 1] == subject
            else:
                assert isinstance(result, BusError)
        if not faults:
            assert all(isinstance(result, int) for result in results.values())
        assert all(row_hash(stream.rows[head.seq - 1]) == head.hash for head in heads)
        assert not [data for data in stream.rows if json.loads(data)["action"] == "audit_rewound"]

    asyncio.run(run())


async def test_rows_that_wait_together_go_together_and_keep_their_order() -> None:
    stream = ModelStream([])
    writer = ChainWriter(stream, lambda head: None)
    numbers = await asyncio.gather(*(writer.write(row(str(number))) for number in range(500)))
    assert numbers == list(range(1, 501))
    assert subjects(stream.rows) == [str(number) for number in range(500)]
    assert stream.appends <= 2


async def test_a_row_that_is_there_although_the_answer_was_lost_counts_as_written() -> None:
    stream = ModelStream([], ["answer_lost"])
    assert await ChainWriter(stream, lambda head: None).write(row("a")) == 1


async def test_a_row_that_others_overtake_for_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Crowded(ModelStream):
        async def append(self, connection: JetStreamContext, messages: Sequence[Message], after: int) -> None:
            self.appends += 1
            await asyncio.sleep(0.001)
            raise Overtaken("the audit went on behind row 0: other mixers were faster")

    monkeypatch.setattr(writer_module, "LIMITS", MixerLimits(audit_retry_s=0.05))
    stream = Crowded([])
    results = await asyncio.gather(
        *(ChainWriter(stream, lambda head: None).write(row(str(number))) for number in range(20)),
        return_exceptions=True,
    )
    assert all(isinstance(result, BusError) and "faster" in result.message for result in results)
    assert stream.appends > 20


async def test_a_writer_that_asked_and_left_writes_nothing() -> None:
    stream = ModelStream([])
    writer = ChainWriter(stream, lambda head: None)
    first = asyncio.create_task(writer.write(row("a")))
    left = asyncio.create_task(writer.write(row("b")))
    await asyncio.sleep(0)
    left.cancel()
    assert await first == 1
    await writer.drained()
    assert subjects(stream.rows) == ["a"]


async def test_a_long_row_is_refused_alone() -> None:
    stream = ModelStream([])
    writer = ChainWriter(stream, lambda head: None)
    long = Row("ops", "approve", "a", "ok", detail={"message": "m" * 20_000})
    results = await asyncio.gather(writer.write(row("a")), writer.write(long), return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], InputError)


async def test_when_too_many_rows_wait_the_next_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ChainWriter(ModelStream([]), lambda head: None)
    jobs = [asyncio.create_task(writer.write(row("a"))) for _ in range(LIMITS.audit_waiting_rows)]
    await asyncio.sleep(0)
    with pytest.raises(BusError, match="the audit is behind"):
        await writer.write(row("b"))
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    await writer.drained()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[:3], "shortened"),
        (lambda rows: [], "shortened"),
        (lambda rows: [*rows[:3], *rows[3:5], rows[5].replace(b"ops", b"opt")], "replaced"),
    ],
)
async def test_a_stream_that_contradicts_the_witness_is_noted_in_it(change: Any, reason: str) -> None:
    stream = ModelStream([])
    writer = ChainWriter(stream, lambda head: None)
    await asyncio.gather(*(writer.write(row(str(number))) for number in range(6)))
    noted = writer.head
    stream.rows[:] = change(stream.rows)
    found = Head(len(stream.rows), row_hash(stream.rows[-1])) if stream.rows else EMPTY
    again = ChainWriter(stream, lambda head: None)
    with structlog.testing.capture_logs() as lines:
        await again.open(noted)
    assert [line["reason"] for line in lines if line["event"] == "audit_rewound"] == [reason]
    fields = json.loads(stream.rows[-1])
    assert (fields["action"], fields["reason"], fields["result"]) == ("audit_rewound", reason, "failed")
    assert fields["detail"] == {
        "witness_seq": noted.seq, "witness_head": noted.hash, "stream_seq": found.seq, "stream_head": found.hash,
    }  # fmt: skip
    await again.write(row("next"))
    verified(stream.rows)
    assert len(stream.rows) == found.seq + 2
    third = ChainWriter(stream, lambda head: None)
    await third.open(again.head)  # said once
    assert len(stream.rows) == found.seq + 2


async def test_a_stream_put_back_while_we_run_is_noticed_with_the_next_row_on_the_new_connection() -> None:
    stream = ModelStream([])
    writer = ChainWriter(stream, lambda head: None)
    await asyncio.gather(*(writer.write(row(str(number))) for number in range(6)))
    del stream.rows[2:]
    with structlog.testing.capture_logs():
        assert await writer.write(row("next")) == 4
    assert [json.loads(data)["action"] for data in stream.rows[2:]] == ["audit_rewound", "approve"]
    verified(stream.rows)


async def test_a_newest_row_that_cannot_be_read_is_noted_and_the_mixer_goes_on() -> None:
    class Damaged(ModelStream):
        async def end(self) -> End:
            found = await super().end()
            return End(Head(found.head.seq, "0" * 64), lost=True) if found.head.seq == 2 else found

    stream = Damaged([])
    writer = ChainWriter(stream, lambda head: None)
    await writer.write(row("a"))
    await writer.write(row("b"))
    again = ChainWriter(stream, lambda head: None)
    with structlog.testing.capture_logs():
        await again.open(None)
    assert json.loads(stream.rows[2])["reason"] == "head_lost"
    assert await again.write(row("c")) == 4


async def test_a_witness_follows_the_head_and_is_complete_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "outside" / "audit.json"
    keeper = witness.Witness(path)
    assert keeper.load() is None
    keeper.start()
    for seq in range(1, 50):
        keeper.advance(Head(seq, f"{seq:064x}"))
    await keeper.stop()
    assert witness.read(path) == (49, f"{49:064x}")
    assert path.read_bytes() == b'{"head": "%s", "seq": 49, "v": 1}\n' % f"{49:064x}".encode()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_witness_that_cannot_be_written_is_said_once_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = asyncio.Event()
    loop = asyncio.get_running_loop()
    real, fails = witness.write, [True, True, False]

    def write(path: Path, head: Head) -> None:
        if fails.pop(0):
            raise StorageError("cannot write: disk full")
        real(path, head)
        loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(witness, "write", write)
    monkeypatch.setattr(witness, "LIMITS", type(LIMITS)(audit_witness_s=0.001))
    keeper = witness.Witness(tmp_path / "audit.json")
    with structlog.testing.capture_logs() as lines:
        keeper.start()
        keeper.advance(Head(1, "a" * 64))
        async with asyncio.timeout(5):
            await written.wait()
        await keeper.stop()
    assert [line["event"] for line in lines] == ["audit_witness_not_written"]
    assert witness.read(tmp_path / "audit.json") == (1, "a" * 64)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"v": 1, "seq": "1", "head": "%s"}' % (b"a" * 64), b'{"v": 2}', b"\xff", b"x" * 2000,
             b'{"v": 1, "seq": 1, "head": "ab"}', b'{"v": 1, "seq": true, "head": "%s"}' % (b"a" * 64)]
)  # fmt: skip
def test_a_damaged_witness_is_not_believed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "audit.json"
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        witness.read(path)
