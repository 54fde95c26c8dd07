"""Whatever fails and in whatever order: what was acknowledged is in the lake, once, in order, or a tombstone names it.

Hypothesis appends, seals, ships, evicts and commits, and lets disk and storage fail at any operation: errors, a full
disk, short writes, kill -9, and power cuts that forget and reorder what was not synced (``support/fake_disk.py``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from nacl.signing import SigningKey

from stagebox.errors import StorageError
from stagebox.records.walbatch import WalRecord
from stagebox_mixer.lake import keeping
from stagebox_mixer.lake.reading import Span
from stagebox_mixer.lake.verify import verify
from stagebox_mixer.limits import LIMITS as MIXER_LIMITS
from stagebox_rack.wal.events import JournalEvent
from support.fake_disk import FakeDisk, Fault, KilledError, PowerCutError
from support.journal import QUICK, RACK
from support.journey import MixerSteps, RackSteps, Stream
from support.lake import records_in

LIMITS = dataclasses.replace(QUICK, wal_hot_file_bytes=16 << 10, wal_space_retry=0.0)
EXPECTED_ALERTS = {"wal_disk_full", "wal_disk_failed", "wal_evicted_unshipped"}
"""What may be reported as an alert here: nothing that means damage, a hole or a fork."""

EFFECTS = [PowerCutError, KilledError, errno.EIO, errno.ENOSPC]
OPERATIONS = ["create", "open", "pwrite", "datasync", "rename", "unlink", "sync_dir", "truncate"]

anything = st.builds(
    Fault, effect=st.sampled_from(EFFECTS), after=st.integers(0, 20), times=st.integers(1, 3)
)
one_thing = st.builds(
    Fault,
    effect=st.sampled_from(EFFECTS),
    after=st.integers(0, 3),
    operations=st.sampled_from(OPERATIONS).map(lambda name: frozenset({name})),
    times=st.integers(1, 3),
)
faults = st.none() | anything | one_thing


class JournalToLake(RuleBasedStateMachine):
    """One rack, one stream, one mixer; ``acknowledged`` is the ledger beside them: number → sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="wal-machine-"))
        self.key = SigningKey(bytes(range(32)))
        self.events: list[JournalEvent] = []
        self.acknowledged: dict[int, int] = {}
        self.tried = 0
        self.stream = Stream()
        self.rack: RackSteps | None = None
        self.runner = asyncio.Runner()
        self.mixer = MixerSteps(self.root / "lake", self.key, self.runner)
        (self.root / "attic").mkdir()

    @initialize(seed=st.integers(0, 1 << 32), fault=faults)
    def first_start(self, seed: int, fault: Fault | None) -> None:
        self.disk = FakeDisk(self.root / "attic", random.Random(seed))
        self.start(fault)

    def start(self, fault: Fault | None = None) -> RackSteps:
        """Start the rack's journal if it is not running, again and again until it succeeds; only the first may fail."""
        if fault is not None:
            self.disk.faults.append(fault)
        while self.rack is None:
            try:
                self.rack = RackSteps(self.root / "wal", self.key, self.disk, LIMITS, self.events)
            except (PowerCutError, KilledError) as end:
                self.end(end)
            except StorageError:
                self.disk.kill()
        self.disk.faults.clear()
        return self.rack

    def end(self, how: BaseException) -> None:
        if self.rack is not None:
            self.rack.abandon()
            self.rack = None
        if isinstance(how, PowerCutError):
            self.disk.cut()
        else:
            self.disk.kill()

    @contextmanager
    def failing(self, fault: Fault | None) -> Iterator[RackSteps]:
        rack = self.start()
        if fault is not None:
            self.disk.faults.append(dataclasses.replace(fault))
        try:
            yield rack
        except (PowerCutError, KilledError) as end:
            self.end(end)
        except (StorageError, OSError):
            pass  # said, and tried again by a later rule
        finally:
            self.disk.faults.clear()

    @rule(
        batches=st.integers(1, 6),
        count=st.integers(1, 4),
        size=st.sampled_from([8, 200, 3000]),
        kind=st.sampled_from(["meter", "event", "unheard-of"]),
        fault=faults,
    )
    def append(self, batches: int, count: int, size: int, kind: str, fault: Fault | None) -> None:
        with self.failing(fault) as rack:
            for _ in range(batches):
                numbers = range(self.tried + 1, self.tried + 1 + count)
                self.tried = numbers[-1]
                records = [
                    WalRecord(kind, 1_700_000_000_000_000_000 + n, f"rack.{RACK}.x", n.to_bytes(8, "big") * (size // 8))
                    for n in numbers
                ]  # fmt: skip
                first = rack.journal.commit(records).first
                self.acknowledged |= {n: first + index for index, n in enumerate(numbers)}

    @rule(fault=faults)
    def rotate_and_seal(self, fault: Fault | None) -> None:
        with self.failing(fault) as rack:
            rack.journal.rotate()
            rack.seal()
            rack.journal_signed()

    @rule(fault=faults)
    def maintain(self, fault: Fault | None) -> None:
        with self.failing(fault) as rack:
            rack.spare()
            rack.seal()
            rack.journal.tick()
            rack.save_cursor()

    @rule(quota=st.sampled_from([0, 8 << 10, 1 << 30]), fault=faults)
    def retain(self, quota: int, fault: Fault | None) -> None:
        with self.failing(fault) as rack:
            rack.retain(quota)
            rack.journal_signed()

    @rule(batches=st.integers(1, 8), answered=st.booleans(), fault=faults)
    def ship(self, batches: int, answered: bool, fault: Fault | None) -> None:
        with self.failing(fault) as rack:
            rack.connect(self.stream)
            rack.ship(self.stream, batches, answered=answered)
            rack.save_cursor()

    @rule()
    def kill_the_rack(self) -> None:
        self.end(KilledError())

    @rule()
    def cut_the_racks_power(self) -> None:
        self.end(PowerCutError())

    @rule(fault=faults)
    def start_the_rack(self, fault: Fault | None) -> None:
        self.start(dataclasses.replace(fault) if fault is not None and self.rack is None else None)

    @rule(
        count=st.integers(1, 20),
        refuse_after=st.none() | st.integers(0, 3),
        took_place=st.booleans(),
        restart=st.booleans(),
    )
    def commit_to_the_lake(
        self, count: int, refuse_after: int | None, took_place: bool, restart: bool
    ) -> None:
        self.refusing(lambda: self.mixer.take(self.stream, count), refuse_after, took_place, restart)

    @rule(refuse_after=st.none() | st.integers(0, 6), took_place=st.booleans(), restart=st.booleans())
    def tidy_the_lake(self, refuse_after: int | None, took_place: bool, restart: bool) -> None:
        self.refusing(self.mixer.tidy, refuse_after, took_place, restart)

    @precondition(lambda self: self.mixer.has_all_of(self.stream))
    @rule()
    def make_the_stream_anew(self) -> None:
        """What the lake has may come again, and is recognised."""
        self.stream = Stream(self.stream.id + 1)

    def refusing(
        self, work: Callable[[], None], refuse_after: int | None, took_place: bool, restart: bool
    ) -> None:
        self.mixer.storage.refuse_after, self.mixer.storage.took_place = refuse_after, took_place
        try:
            work()
        except StorageError:
            assert refuse_after is not None, "only a fault refuses"
        self.mixer.storage.refuse_after = None
        if restart:
            self.mixer.stop()
            self.mixer.start()

    def teardown(self) -> None:
        try:
            if hasattr(self, "disk"):
                self.settle()
                self.check()
        finally:
            self.end(KilledError())
            self.disk.release()
            self.mixer.stop()
            self.runner.close()
            shutil.rmtree(self.root)

    def settle(self) -> None:
        """Let everything arrive, with nothing failing any more."""
        rack = self.start()
        rack.journal_signed()
        rack.journal.rotate()
        rack.seal()
        rack.journal_signed()
        rack.connect(self.stream)
        while rack.acknowledged < rack.committed:
            rack.ship(self.stream, 64, answered=True)
        self.mixer.stop()
        self.mixer.start()
        self.mixer.take(self.stream, len(self.stream.messages))

    def check(self) -> None:
        rack, reader = self.rack, self.mixer.lake.reader()
        assert rack is not None
        lake = records_in(reader, RACK)
        sequences = [sequence for sequence, _, _ in lake]
        assert sequences == sorted(set(sequences)), "a record is in the lake twice or out of order"
        journal = next(iter(self.mixer.lake.of_rack(RACK)), None)
        graves: set[int] = set()
        if journal is not None:
            assert all(gap.explained for gap in journal.gaps), f"missing without a tombstone: {journal.gaps}"
            graves = {n for gap in journal.gaps for n in range(gap.first, gap.last + 1)}
            assert journal.last == rack.committed
        assert set(sequences) | graves == set(range(1, rack.committed + 1)), "the lake has a hole"
        held = {
            int.from_bytes(data[:8], "big"): sequence
            for sequence, kind, data in lake
            if kind in ("meter", "event", "unheard-of")
        }
        for number, sequence in self.acknowledged.items():
            assert held.get(number) == sequence or sequence in graves, f"record {number} ({sequence}) is lost"
        assert held.keys() <= set(range(1, self.tried + 1)), "a record that nobody appended"
        alerts = {event.name for event in self.events if event.severity == "alert"}
        assert alerts <= EXPECTED_ALERTS, [e for e in self.events if e.name in alerts - EXPECTED_ALERTS]
        assert {row.action for row in self.mixer.alarms} <= {"wal_gap"}, self.mixer.alarms
        assert not self.mixer.refusals, self.mixer.refusals
        assert not list((self.root / "wal" / "quarantine").iterdir())
        verify(reader, Span())


def test_acknowledged_means_exactly_once_in_the_lake_whatever_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick = dataclasses.replace(
        MIXER_LIMITS, lake_sort_after_s=0.0, lake_merge_files=2, lake_sweep_after_s=0.0
    )
    monkeypatch.setattr(keeping, "LIMITS", quick)
    run_state_machine_as_test(
        JournalToLake,
        settings=settings(
            max_examples=200,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,  # the same journeys everywhere; look for new ones with a profile of your own
            suppress_health_check=list(HealthCheck),
        ),
    )
