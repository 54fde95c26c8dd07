"""The files of modules by digest: a JetStream object store, checked at every read.

The layout is that of NATS's object stores, so its tools can list and copy it. Reading is our own: the client's way is
a consumer that hangs when the connection ends in the middle. Whatever comes back is compared with the digest it was
asked for by; whoever can write the store can make a file missing, and nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Collection

import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from stagebox.errors import BusError, ModuleError
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.outages import explained
from stagebox_mixer.streams import WASM_OBJECTS

log = structlog.get_logger()

_STREAM = f"OBJ_{WASM_OBJECTS}"
_OBJECTS = f"$O.{WASM_OBJECTS}."
_INFO = f"{_OBJECTS}M."
_PIECES = f"{_OBJECTS}C."
_NAME = re.compile(r"[0-9a-f]{64}\Z")


class ModuleFiles:
    """Files by SHA-256. What was read and found right is kept in memory, within ``module_cache_bytes``."""

    def __init__(self, jetstream: Callable[[], JetStreamContext]) -> None:
        self._jetstream = jetstream
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._kept_bytes = 0

    async def put(self, data: bytes) -> bytes:
        """Store a file, read it back, and return its digest. A file that is there already is left alone.

        Raises:
            BusError: it cannot be stored. ModuleError: what comes back is not what was stored.
        """
        digest = hashlib.sha256(data).digest()
        try:
            await self._read(digest)
        except ModuleError:  # there is none, or a damaged one
            with explained("the store of modules"):
                async with asyncio.timeout(LIMITS.module_store_s):
                    store = await self._jetstream().object_store(WASM_OBJECTS)
                    await store.put(digest.hex(), data)
            await self._read(digest)
        return digest

    async def get(self, digest: bytes) -> bytes:
        """Return the file of that digest.

        Raises:
            ModuleError: ``unknown_module``: there is none; ``wrong_digest``: another file stands in its place.
            BusError: the store cannot be read.
        """
        held = self._kept.get(digest)
        if held is None:
            held = await self._read(digest)
            self._keep(digest, held)
        self._kept.move_to_end(digest)
        return held

    async def check(self, digest: bytes) -> None:
        """Read the file from the store, whatever is kept in memory.

        Raises:
            ModuleError, BusError: as :meth:`get`.
        """
        await self._read(digest)

    async def stored(self) -> list[bytes]:
        """Return the digests that files of ours are stored under.

        Raises:
            BusError: the store cannot be read.
        """
        with explained("the store of modules"):
            info = await self._jetstream().stream_info(_STREAM, subjects_filter=f"{_INFO}>")
        subjects = sorted(subject for subject in info.state.subjects or {} if _is_ours(subject))
        return [bytes.fromhex(_name_in(subject)) for subject in subjects]

    async def unneeded(self, needed: Collection[bytes]) -> frozenset[str]:
        """Return the subjects of all that is stored beyond the files of ``needed``, pieces of files half stored too.

        What is not named as a file of ours is left alone.

        Raises:
            BusError: the store cannot be read.
        """
        with explained("the store of modules"):
            async with asyncio.timeout(LIMITS.module_store_s):
                info = await self._jetstream().stream_info(_STREAM, subjects_filter=f"{_OBJECTS}>")
                stored = frozenset(info.state.subjects or {})
                kept = {_subject(digest.hex()) for digest in needed}
                kept |= {subject for subject in stored if subject.startswith(_INFO) and not _is_ours(subject)}
                places = [await self._place(subject) for subject in kept]
                kept |= {f"{_PIECES}{place[0]}" for place in places if place is not None}
        return stored - kept

    async def remove(self, subjects: Collection[str]) -> None:
        """Remove everything under subjects that :meth:`unneeded` returned.

        Raises:
            BusError: it cannot be removed, or not all of it.
        """
        with explained("the store of modules"):
            for subject in sorted(subjects):  # pieces before the information by which they are found again
                await self._jetstream().purge_stream(_STREAM, subject=subject)

    def _keep(self, digest: bytes, data: bytes) -> None:
        if digest not in self._kept:
            self._kept_bytes += len(data)
        self._kept[digest] = data
        while self._kept_bytes > LIMITS.module_cache_bytes and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])

    async def _read(self, digest: bytes) -> bytes:
        with explained("the store of modules"):
            async with asyncio.timeout(LIMITS.module_store_s):
                data = await self._fetch(digest.hex())
        if hashlib.sha256(data).digest() != digest:
            log.error("module_file_altered", digest=digest.hex(), bytes=len(data))
            raise ModuleError(
                "wrong_digest",
                f"the stored module {digest.hex()} is not the file that was imported: somebody altered the store",
                remedy="import the vendor's file again",
            )
        return data

    async def _fetch(self, name: str) -> bytes:
        """Return what is stored under ``name``, whatever it is, up to one byte more than a module may have."""
        js = self._jetstream()
        place = await self._place(_subject(name))
        try:
            if place is None:
                raise NotFoundError
            parts: list[bytes] = []
            size, after = 0, 1
            while size < place[1]:
                part = await js.get_msg(
                    _STREAM, seq=after, subject=f"{_PIECES}{place[0]}", direct=True, next=True
                )
                if not part.data or part.seq is None:
                    raise BusError("the store of modules answers with an empty piece")
                parts.append(part.data)
                size, after = size + len(part.data), part.seq + 1
        except NotFoundError:
            raise ModuleError("unknown_module", f"no module with the digest {name} is stored") from None
        return b"".join(parts)

    async def _place(self, subject: str) -> tuple[str, int] | None:
        """Return where a file's pieces are and how many bytes they have; None if there is no such file."""
        try:
            found = await self._jetstream().get_msg(_STREAM, subject=subject, direct=True)
        except NotFoundError:
            return None
        return _place_in(found.data or b"")


def _subject(name: str) -> str:
    """Return where the information of the object of that name is."""
    return f"{_INFO}{base64.urlsafe_b64encode(name.encode()).decode()}"


def _is_ours(subject: str) -> bool:
    """Tell whether the object of that information has a name that :meth:`ModuleFiles.put` gives."""
    try:
        return _NAME.match(_name_in(subject)) is not None
    except ValueError:
        return False


def _name_in(subject: str) -> str:
    return base64.urlsafe_b64decode(subject.removeprefix(_INFO)).decode()


def _place_in(info: bytes) -> tuple[str, int] | None:
    """Read an object's information; None if it does not say where its pieces are, or was deleted."""
    try:
        fields = json.loads(info)
        nuid, size = fields["nuid"], fields["size"]
    except (ValueError, KeyError, TypeError):
        return None
    if fields.get("deleted") or type(nuid) is not str or not nuid.isalnum() or type(size) is not int:
        return None
    return nuid, min(size, FORMAT.max_module_bytes + 1)
