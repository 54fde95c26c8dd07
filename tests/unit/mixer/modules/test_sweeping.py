"""Sweeping: what nothing needs goes in the end, what anything may need stays, and a failure is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from stagebox.control.denylist import DenyList
from stagebox.errors import BusError, StageboxError
from stagebox.tasks import end_tasks
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.model import ModuleEntry
from stagebox_mixer.modules.store import Catalogue
from stagebox_mixer.modules.sweeping import Sweeper
from stagebox_mixer.registry.store import Unreadable
from support.patched import module_entry

OLD, NEW, OTHER = b"\1" * 32, b"\2" * 32, b"\3" * 32
LONG = LIMITS.module_unneeded_s


class Store:
    """A registry and files, one subject each. ``now`` is the time, ``away`` what every call raises."""

    def __init__(self) -> None:
        self.entries: list[ModuleEntry] = []
        self.unreadable: tuple[Unreadable, ...] = ()
        self.held: set[bytes] = set()
        self.now = 0.0
        self.away: StageboxError | None = None
        self.refused = 0
        self.looked, self.removed = asyncio.Event(), asyncio.Event()
        self.lock = asyncio.Lock()
        self.sweeper = Sweeper(cast(Any, self), self.lock, every_s=0, monotonic=lambda: self.now)

    @property
    def files(self) -> Store:
        return self

    def name(self, *digests: bytes) -> None:
        """Have the registry name just these."""
        self.entries = [
            module_entry(version=f"{number}.0.0", digest=digest) for number, digest in enumerate(digests)
        ]

    async def catalogue(self) -> Catalogue:
        self.looked.set()
        if self.away is not None:
            raise self.away
        entries = {(entry.name, entry.version): entry for entry in self.entries}
        return Catalogue(entries, (), DenyList("flux"), self.unreadable)

    async def unneeded(self, needed: Collection[bytes]) -> frozenset[str]:
        return frozenset(digest.hex() for digest in self.held - set(needed))

    async def remove(self, subjects: Collection[str]) -> None:
        if self.refused:
            self.refused -= 1
            raise BusError("the store is away")
        self.held -= {bytes.fromhex(subject) for subject in subjects}
        self.removed.set()


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    """A store in which OLD was countersigned again as NEW."""
    found = Store()
    found.held = {OLD, NEW, OTHER}
    found.name(NEW, OTHER)
    yield found


async def test_a_former_file_goes_once_no_rack_can_still_want_it(store: Store) -> None:
    await store.sweeper.sweep()
    store.now = LONG - 1
    await store.sweeper.sweep()
    assert store.held == {OLD, NEW, OTHER}
    store.now = LONG
    await store.sweeper.sweep()
    assert store.held == {NEW, OTHER}
    store.now = 9 * LONG
    await store.sweeper.sweep()
    assert store.held == {NEW, OTHER}


async def test_what_was_needed_at_any_look_has_all_of_its_time_again(store: Store) -> None:
    await store.sweeper.sweep()
    store.name(NEW, OTHER, OLD)
    store.now = LONG
    await store.sweeper.sweep()
    store.name(NEW, OTHER)
    await store.sweeper.sweep()
    store.now = 2 * LONG - 1
    await store.sweeper.sweep()
    assert OLD in store.held


async def test_nothing_is_removed_that_an_import_under_way_has_just_put(store: Store) -> None:
    await store.sweeper.sweep()
    store.now = LONG
    async with store.lock:  # an import, between its file and its entry
        store.looked.clear()
        sweeping = asyncio.create_task(store.sweeper.sweep())
        await store.looked.wait()
        store.name(NEW, OTHER, OLD)
    await sweeping
    assert store.held == {OLD, NEW, OTHER}


async def test_a_registry_that_was_lost_takes_no_file_with_it(store: Store) -> None:
    store.name()
    for store.now in (0.0, LONG, 2 * LONG):
        await store.sweeper.sweep()
    assert store.held == {OLD, NEW, OTHER}


async def test_a_registry_that_cannot_be_read_removes_nothing(store: Store) -> None:
    await store.sweeper.sweep()
    store.now, store.away = LONG, BusError("the registry is away")
    with pytest.raises(BusError):
        await store.sweeper.sweep()
    assert store.held == {OLD, NEW, OTHER}


async def test_a_removal_that_fails_is_logged_and_tried_again_at_the_next_look(store: Store) -> None:
    await store.sweeper.sweep()
    store.now, store.refused = LONG, 2
    with capture_logs() as logs:
        running = asyncio.create_task(store.sweeper.run())
        async with asyncio.timeout(5):
            await store.removed.wait()
        await end_tasks([running])
    assert store.held == {NEW, OTHER}
    assert [entry["event"] for entry in logs][:3] == [
        "module_files_not_swept", "module_files_not_swept", "module_files_removed",
    ]  # fmt: skip


async def test_an_entry_that_cannot_be_read_may_name_any_file(store: Store) -> None:
    await store.sweeper.sweep()
    store.now, store.unreadable = LONG, (Unreadable("old.1.0.0", b"\xa0", 1, "it has no 'v'"),)
    await store.sweeper.sweep()
    assert store.held == {OLD, NEW, OTHER}
    store.unreadable = ()
    await store.sweeper.sweep()
    assert store.held == {OLD, NEW, OTHER}, "it has to be unneeded for long anew"
    store.now = 2 * LONG
    await store.sweeper.sweep()
    assert store.held == {NEW, OTHER}
