"""The registry's storage: JetStream KV, compare-and-set on every write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from nats.js import JetStreamContext
from nats.js.errors import APIError, InvalidKeyError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from stagebox.errors import BusError, DecodeError
from stagebox.identity import check_name
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.outages import explained
from stagebox_mixer.registry.model import RackEntry, TokenEntry
from stagebox_mixer.streams import RACKS_BUCKET, TOKENS_BUCKET

_WRONG_LAST_SEQUENCE = (10071, 10164)


class Encodable(Protocol):
    """What a bucket holds."""

    def encode(self) -> bytes:
        """Return the stored form."""


_Entry = TypeVar("_Entry", bound=Encodable)


class Conflict(BusError):
    """Somebody else wrote the entry in between; read it again and decide anew."""


@dataclass(frozen=True)
class Stored(Generic[_Entry]):
    """An entry with the revision that a write must name."""

    entry: _Entry
    revision: int


@dataclass(frozen=True)
class Unreadable:
    """What is stored as ``key`` and is no entry to this release: damaged, or written by a later one."""

    key: str
    data: bytes
    revision: int
    problem: str


class Bucket(Generic[_Entry]):
    """One kind of entry in one KV bucket, read from the server every time: there is no cache to be stale.

    With ``key_of``, which returns the key that an entry is to be stored under, an entry under another key is damaged,
    and so is an empty one, which without it is none.
    """

    def __init__(
        self,
        bucket: str,
        decode: Callable[[bytes], _Entry],
        jetstream: Callable[[], JetStreamContext],
        key_of: Callable[[_Entry], str] | None = None,
    ) -> None:
        self._bucket = bucket
        self._decode: Callable[[bytes], _Entry] = decode
        self._jetstream = jetstream
        self._key_of = key_of
        self._bound: tuple[JetStreamContext, KeyValue] | None = None

    async def get(self, key: str) -> Stored[_Entry] | None:
        """Return the entry stored as ``key``, or None.

        Raises:
            BusError: the bus is down. DecodeError: the entry is damaged.
        """
        found = await self.find(key)
        if isinstance(found, Unreadable):
            raise DecodeError(found.problem)
        return found

    async def find(self, key: str) -> Stored[_Entry] | Unreadable | None:
        """Return what is stored as ``key``, readable or not, or None; what cannot be a key names nothing.

        Raises:
            BusError: the bus is down.
        """
        return await self._find(key, validate=True)

    async def _find(self, key: str, *, validate: bool) -> Stored[_Entry] | Unreadable | None:
        with explained(f"the registry ({self._bucket})"):
            try:
                found = await (await self._kv()).get(key, validate_keys=validate)
            except (KeyNotFoundError, InvalidKeyError):
                return None
        if found.revision is None or (found.value is None and self._key_of is None):
            return None
        data = found.value or b""
        try:
            entry = self._decode(data)
        except DecodeError as error:
            return Unreadable(key, data, found.revision, error.message)
        if self._key_of is not None and (own := self._key_of(entry)) != key:
            return Unreadable(key, data, found.revision, f"it is the entry of {own!r}")
        return Stored(entry, found.revision)

    async def put(self, key: str, entry: _Entry, *, revision: int | None) -> None:
        """Write ``entry``; ``revision`` is the one read before, None if there must be no entry yet.

        Raises:
            Conflict: the entry changed in between. BusError: the bus is down.
        """
        with explained(f"the registry ({self._bucket})"):
            kv = await self._kv()
            try:
                if revision is None:
                    await kv.create(key, entry.encode())
                else:
                    await kv.update(key, entry.encode(), last=revision)
            except KeyWrongLastSequenceError:
                raise Conflict(f"the entry {key!r} in {self._bucket} changed in between") from None

    async def delete(self, key: str, *, revision: int) -> None:
        """Remove the entry read at ``revision``.

        Raises:
            Conflict: the entry changed in between. BusError: the bus is down.
        """
        with explained(f"the registry ({self._bucket})"):
            try:
                await (await self._kv()).delete(key, last=revision)
            except APIError as error:  # the client gives it a name of its own only where it writes
                if error.err_code not in _WRONG_LAST_SEQUENCE:
                    raise
                raise Conflict(f"the entry {key!r} in {self._bucket} changed in between") from None

    async def all(self) -> tuple[dict[str, _Entry], tuple[Unreadable, ...]]:
        """Return every entry by its key, and what is there and cannot be read: one does not hide the others.

        Raises:
            BusError: the bus is down.
        """
        keys = await self.keys()
        # A key is whatever the server keeps something under, also one that no client would write.
        found = await asyncio.gather(*(self._find(key, validate=False) for key in keys))
        entries = {
            key: stored.entry for key, stored in zip(keys, found, strict=True) if isinstance(stored, Stored)
        }
        return entries, tuple(item for item in found if isinstance(item, Unreadable))

    async def keys(self) -> list[str]:
        """Return all keys, sorted; one may have been removed.

        Raises:
            BusError: the bus is down.
        """
        # Not by the client's own way, a watch: it leaves a task behind when the connection ends in the middle.
        prefix = f"$KV.{self._bucket}."
        with explained(f"the registry ({self._bucket})"):
            info = await self._jetstream().stream_info(f"KV_{self._bucket}", subjects_filter=f"{prefix}>")
        return sorted(subject.removeprefix(prefix) for subject in info.state.subjects or {})

    async def _kv(self) -> KeyValue:
        context = self._jetstream()
        if self._bound is None or self._bound[0] is not context:
            self._bound = (context, await context.key_value(self._bucket))
        return self._bound[1]


class Registry:
    """Racks by name and enrollment tokens by hash."""

    def __init__(self, jetstream: Callable[[], JetStreamContext]) -> None:
        # The bytes come from the server every time; what the same bytes say need not be worked out every time.
        decode = lru_cache(LIMITS.registry_decoded)(RackEntry.decode)
        self.racks: Bucket[RackEntry] = Bucket(RACKS_BUCKET, decode, jetstream)
        self.tokens: Bucket[TokenEntry] = Bucket(TOKENS_BUCKET, TokenEntry.decode, jetstream)

    async def rack(self, name: str) -> RackEntry | None:
        """Return one rack, or None if it is not registered."""
        stored = await self.racks.get(check_name("rack", name))
        return stored.entry if stored is not None else None

    async def all_racks(self) -> list[RackEntry]:
        """Return every registered rack, by name."""
        entries = await asyncio.gather(*(self.racks.get(key) for key in await self.racks.keys()))
        return [stored.entry for stored in entries if stored is not None]
