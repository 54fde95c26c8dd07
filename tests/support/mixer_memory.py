"""Where the mixer keeps things, in memory, one write a step: tests interleave, crash and repeat as they like.

Every read and every write of these doubles is a point where the operation under test can be left: it goes on when
it is stepped again, or never (:meth:`Running.crash`). Writes are compare-and-set as the real ones are.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from stagebox.control.denylist import DenyList, denied, open_deny_list
from stagebox.envelope import DOMAIN_DENY_LIST
from stagebox_keys.authority import ClusterAuthority
from stagebox_mixer.audit import Row
from stagebox_mixer.registry.model import RackEntry, TokenEntry
from stagebox_mixer.registry.store import Conflict, Stored

_Entry = TypeVar("_Entry", RackEntry, TokenEntry)
_T = TypeVar("_T")


@types.coroutine
def switch() -> Generator[None, None, None]:
    """Let something else happen here."""
    yield


class Running(Generic[_T]):
    """One operation under way, stepped by hand."""

    def __init__(self, work: Coroutine[Any, Any, _T]) -> None:
        self._work = work
        self.done = False
        self.result: _T | None = None
        self.error: Exception | None = None

    def step(self) -> bool:
        """Go on to the next read or write; returns whether the operation ended."""
        if self.done:
            return True
        try:
            self._work.send(None)
        except StopIteration as end:
            self.done, self.result = True, end.value
        except Exception as error:
            self.done, self.error = True, error
        return self.done

    def finish(self) -> Running[_T]:
        """Go on to the end."""
        while not self.step():
            pass
        return self

    def crash(self) -> None:
        """Never go on: what is written is written, what is not never will be."""
        self._work.close()
        self.done = True


def run_now(work: Coroutine[Any, Any, _T]) -> _T:
    """Run an operation to its end, alone.

    Raises:
        Exception: whatever it raises.
    """
    ran = Running(work).finish()
    if ran.error is not None:
        raise ran.error
    return ran.result  # type: ignore[return-value]


class MemoryEntries(Generic[_Entry]):
    """Entries by key, kept in their stored form."""

    def __init__(self, decode: Callable[[bytes], _Entry]) -> None:
        self._decode: Callable[[bytes], _Entry] = decode
        self.stored: dict[str, tuple[bytes, int]] = {}
        self.revision = 0
        self.wrote: Callable[[_Entry | None, _Entry], None] = lambda _before, _after: None

    def peek(self, key: str) -> _Entry | None:
        """Return the entry without a step."""
        return self._decode(self.stored[key][0]) if key in self.stored else None

    async def get(self, key: str) -> Stored[_Entry] | None:
        """Read."""
        await switch()
        found = self.stored.get(key)
        return Stored(self._decode(found[0]), found[1]) if found is not None else None

    async def put(self, key: str, entry: _Entry, *, revision: int | None) -> None:
        """Write; the caller may crash before it or after it."""
        await switch()
        found = self.stored.get(key)
        if (found[1] if found is not None else None) != revision:
            raise Conflict(f"the entry {key!r} changed in between")
        before = self.peek(key)
        self.revision += 1
        self.stored[key] = (entry.encode(), self.revision)
        self.wrote(before, entry)
        await switch()

    async def keys(self) -> list[str]:
        """List."""
        await switch()
        return sorted(self.stored)


class MemoryRegistry:
    """Racks and tokens."""

    def __init__(self) -> None:
        self.racks = MemoryEntries(RackEntry.decode)
        self.tokens = MemoryEntries(TokenEntry.decode)

    async def all_racks(self) -> list[RackEntry]:
        """Return every entry."""
        return [RackEntry.decode(data) for data, _ in self.racks.stored.values()]


class MemoryAudit:
    """Rows in order; ``fails`` makes the next writes raise."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.refusals: list[Row] = []
        self.fails: Exception | None = None

    async def record(self, row: Row) -> int:
        """Write."""
        await switch()
        if self.fails is not None:
            raise self.fails
        self.rows.append(row)
        await switch()
        return len(self.rows)

    def refused(self, row: Row) -> None:
        """Note a refusal."""
        self.refusals.append(row)

    def of(self, action: str, result: str = "ok") -> list[Row]:
        """Return the rows of one action."""
        return [row for row in self.rows if (row.action, row.result) == (action, result)]


class MemoryDenials:
    """A deny list with the real list's rules."""

    def __init__(self, cluster: str, authority: ClusterAuthority) -> None:
        self.list = DenyList(cluster)
        self._authority = authority

    async def read(self) -> DenyList:
        """Read."""
        await switch()
        return self.list

    async def signed(self) -> bytes:
        """Sign."""
        await switch()
        return self.sealed(self.list)

    def sealed(self, bans: DenyList) -> bytes:
        """Sign any list."""
        return self._authority.seal(DOMAIN_DENY_LIST, bans.encode())

    def wants(self, epoch: int, *, source: str) -> bool:
        """Ask for every list that is newer."""
        return epoch > self.list.epoch

    async def adopt(self, data: bytes, *, source: str) -> bool:
        """Take a newer list."""
        theirs = open_deny_list(data, self._authority.public)
        await switch()
        if theirs.epoch <= self.list.epoch:
            return False
        self.list = theirs
        return True

    def deny(self, kind: str, value: str) -> None:
        """Ban."""
        self.list = self.list.with_denied(denied(kind, value), now_ns=self.list.time_ns + 1)

    def clear(self) -> None:
        """Lift every ban."""
        for entry in self.list.entries:
            self.list = self.list.without(entry, now_ns=self.list.time_ns + 1)
