"""Import, assignment and revocation over memory: what is written, in which order, and what fails."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, cast

from stagebox.control.denylist import DenyList, denied
from stagebox.errors import BusError, DecodeError, ModuleError
from stagebox.modules.patch import Point
from stagebox_mixer.audit import Row
from stagebox_mixer.modules.assigning import Wanted
from stagebox_mixer.modules.assignments import Assigner
from stagebox_mixer.modules.importing import Importer
from stagebox_mixer.modules.judging import ImportOptions
from stagebox_mixer.modules.model import Assignment, ModuleEntry
from stagebox_mixer.modules.remains import SignedFiles
from stagebox_mixer.modules.revoking import Revoker
from stagebox_mixer.modules.store import Catalogue
from stagebox_mixer.modules.vendors import Vendors
from stagebox_mixer.registry.store import Conflict, Encodable, Stored, Unreadable
from support.cluster import Cluster
from support.modules import NOW, signed_module

ACTOR = "spiffe://ops"
E = TypeVar("E", bound=Encodable)


class Away(BusError):
    """Something is down."""

    def __init__(self) -> None:
        super().__init__("it is away")


class Journal:
    """What was written, in order, and what shall fail."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.rows: list[Row] = []
        self.fails: set[str] = set()

    def step(self, what: str) -> None:
        if what in self.fails:
            raise Away
        self.steps.append(what)

    async def record(self, row: Row) -> int:
        self.step("audit")
        self.rows.append(row)
        return len(self.rows)

    def refused(self, row: Row) -> None:
        self.rows.append(row)

    def of(self, action: str) -> list[tuple[str, str]]:
        return [(row.result, row.reason) for row in self.rows if row.action == action]


class Bucket(Generic[E]):
    """Entries in memory, with compare-and-set."""

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self.journal = journal
        self.held: dict[str, Stored[E]] = {}
        self.odd: dict[str, Unreadable] = {}
        self.before_put: Callable[[], None] = lambda: None

    async def get(self, key: str) -> Stored[E] | None:
        if key in self.odd:
            raise DecodeError(self.odd[key].problem)
        return self.held.get(key)

    async def find(self, key: str) -> Stored[E] | Unreadable | None:
        return self.odd.get(key) or self.held.get(key)

    async def all(self) -> tuple[dict[str, E], tuple[Unreadable, ...]]:
        entries = {key: stored.entry for key, stored in self.held.items() if key not in self.odd}
        return entries, tuple(self.odd.values())

    def damage(self, key: str, data: bytes = b"\xa0") -> None:
        """Have something else stand there."""
        self.odd[key] = Unreadable(key, data, 7, "it has no 'v'")

    async def put(self, key: str, entry: E, *, revision: int | None) -> None:
        self.before_put()
        self.journal.step(self.name)
        self._check(key, revision)
        self.held[key] = Stored(entry, (revision or 0) + 1)

    async def delete(self, key: str, *, revision: int) -> None:
        self.journal.step(self.name)
        if key in self.odd and self.odd[key].revision == revision:
            del self.odd[key]
            return
        self._check(key, revision)
        del self.held[key]

    def _check(self, key: str, revision: int | None) -> None:
        found = self.held.get(key)
        if (found.revision if found is not None else None) != revision:
            raise Conflict(f"{key} changed")


class Files:
    """Files by digest."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.held: dict[bytes, bytes] = {}
        self.away = False

    async def put(self, data: bytes) -> bytes:
        self.journal.step("file")
        digest = hashlib.sha256(data).digest()
        self.held[digest] = data
        return digest

    async def get(self, digest: bytes) -> bytes:
        if digest not in self.held:
            raise ModuleError("unknown_module", "there is none")
        return self.held[digest]

    async def check(self, digest: bytes) -> None:
        await self.get(digest)

    async def stored(self) -> list[bytes]:
        if self.away:
            raise Away
        return list(self.held)


@dataclass
class Bench:
    """All of it over memory. ``now`` is the time."""

    cluster: Cluster
    keys: Path
    journal: Journal = field(default_factory=Journal)
    now: int = NOW

    def __post_init__(self) -> None:
        self.modules: Bucket[ModuleEntry] = Bucket("module", self.journal)
        self.assignments: Bucket[Assignment] = Bucket("assignment", self.journal)
        self.files = Files(self.journal)
        self.bans = DenyList(self.cluster.name)
        self.changed: list[str] = []
        self.racks: list[str] = []
        self.away = False
        vendors, lock, store = Vendors(self.keys), asyncio.Lock(), cast(Any, self)
        self.importer = Importer(
            cluster=self.cluster.name, authority=self.cluster.keys.authority, vendors=vendors, store=store,
            audit=self.journal, prove=self.prove, lock=lock, clock=lambda: self.now,
        )  # fmt: skip
        self.assigner = Assigner(
            store=store, importer=self.importer, racks=self, audit=self.journal, lock=lock,
            clock=lambda: self.now, entropy=bytes,
        )  # fmt: skip
        self.revoker = Revoker(
            store=store, vendors=vendors, bans=self, audit=self.journal, clock=lambda: self.now,
            signed=SignedFiles(self.files, self.cluster.name, self.cluster.keys.authority.public),
        )  # fmt: skip
        self.assigner.changed = self.revoker.changed = self.note

    async def catalogue(self) -> Catalogue:
        if self.away:
            raise Away
        modules, odd = await self.modules.all()
        assignments, odd_assignments = await self.assignments.all()
        return Catalogue(
            {(entry.name, entry.version): entry for entry in modules.values()},
            tuple(sorted(assignments.values(), key=lambda item: item.created)), self.bans, odd, odd_assignments,
        )  # fmt: skip

    async def all_racks(self) -> list[Any]:
        return [SimpleNamespace(name=name, removed_at=0) for name in self.racks]

    async def prove(self, data: bytes) -> None:
        self.journal.step("prove")

    async def deny(self, kind: str, value: str, *, reason: str, actor: str) -> DenyList:
        self.journal.step("ban")
        self.bans = self.bans.with_denied(denied(kind, value, since=self.bans.epoch + 1), now_ns=1)
        return self.bans

    def note(self, assignments: Collection[Assignment]) -> None:
        self.changed += [item.id for item in assignments]

    async def take(self, version: str = "1.0.0", **fields: Any) -> ModuleEntry:
        file = signed_module(version=version, **fields)
        return (await self.importer.take(file, ImportOptions(), actor=ACTOR)).entry

    async def assign(self, version: str, name: str = "eq", **fields: Any) -> Assignment:
        wanted = Wanted("gain", version, ("*",), Point.METERS, "main", **fields)
        return await self.assigner.assign(wanted, actor=ACTOR, name=name)

    def entry(self, version: str) -> ModuleEntry:
        return self.modules.held[f"gain.{version}"].entry

    def held(self, name: str = "eq") -> Assignment:
        return self.assignments.held[name].entry
