"""The deny list with its I/O: a registry bucket, a copy on disk, and what racks bring back.

Rules: the list is signed by the cluster authority and verified wherever it comes from. Of several copies the one
:func:`~stagebox_mixer.denial.merging.newest` chooses holds, and the others are healed from it, so that neither a
restored registry nor a restored mixer lifts a ban. A change is audited, written by compare-and-set, told to
whoever enforces it, and copied to disk, in this order. It is read from the registry at every decision; if it
cannot be read or verified, the decision fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from stagebox.control.denylist import Denied, DenyList, denied, open_deny_list
from stagebox.envelope import DOMAIN_DENY_LIST
from stagebox.errors import InputError, StageboxError, StorageError, VerificationError
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.denial.fresh import Fresh
from stagebox_mixer.denial.merging import newest
from stagebox_mixer.denial.record import Note, Record, check_reason, cleared_after, note_key
from stagebox_mixer.denial.witness import Witness
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.outages import explained
from stagebox_mixer.streams import DENIED_BUCKET

log = structlog.get_logger()

_KEY = "list"
_SUBJECT = "deny-list"


class DeniedError(VerificationError):
    """Somebody or something is banned; ``code`` is the reason in audits and answers."""

    code = "denied"

    def __init__(self, entry: Denied) -> None:
        super().__init__(
            f"{entry.kind.value} {entry.value} is denied",
            remedy="an administrator of the cluster can lift it: stagebox admin racks clear",
        )
        self.entry = entry


@dataclass(frozen=True)
class _Copy:
    """The list that holds, with its signed form. ``revision`` is that of the registry's copy, 0 if there is none;
    ``stored`` whether the registry's copy is this list.
    """

    list: DenyList
    signed: bytes
    record: Record
    revision: int
    stored: bool = True


class Denials:
    """Who is banned. ``changed`` is called on the event loop with every list that takes effect."""

    def __init__(
        self,
        keys: MixerKeys,
        jetstream: Callable[[], JetStreamContext],
        audit: Audit,
        witness_dir: Path,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._authority = keys.authority
        self._cluster = keys.cluster.name
        self._jetstream = jetstream
        self._audit = audit
        self._witness = Witness(witness_dir, keys.authority.public)
        self._clock = clock
        self._bound: tuple[JetStreamContext, KeyValue] | None = None
        empty = DenyList(self._cluster)
        sealed = self._seal(empty)
        self._nothing = _Copy(empty, sealed, Record(sealed), 0)
        self._decoded = self._nothing
        self._newest = (empty, self._nothing.signed)
        self._witnessed = 0  # the epoch of the copy on disk; an empty list needs none
        self._heard: OrderedDict[str, int] = OrderedDict()
        self._shared = Fresh(self._current)
        self._writing = asyncio.Lock()
        self.changed: Callable[[DenyList], None] = _nobody

    async def start(self) -> None:
        """Bring the registry's copy and the one on disk together.

        Raises:
            VerificationError: one of them is not what this cluster signed. StorageError, BusError: it cannot be
            read or written. In all these cases the mixer must not start: a ban might be missing.
        """
        found = await asyncio.to_thread(self._witness.load)
        if found is not None:
            own, signed = found
            self._check_cluster(own)
            self._newest, self._witnessed = (own, signed), own.epoch
        async with self._writing:
            await self._bring_in(self._newest, actor="mixer", source="witness")
            await self._write_witness()

    async def heal(self) -> None:
        """Bring up to date whichever copy is behind; does nothing if none is.

        Raises:
            StageboxError: the registry cannot be read or written. A full disk is logged, not raised.
        """
        async with self._writing:
            await self._bring_in(self._newest, actor="mixer", source="memory")
            await self._update_witness()

    async def read(self) -> DenyList:
        """Return the list as it stands now, read after this call began.

        Raises:
            BusError: the registry is away. VerificationError, DecodeError: what is stored there is not ours.
        """
        return (await self._shared.get()).list

    async def signed(self) -> bytes:
        """Return the signed list as racks get it.

        Raises:
            StageboxError: as :meth:`read`.
        """
        return (await self._shared.get()).signed

    async def notes(self) -> dict[str, Note]:
        """Return why and by whom, by ``<kind>:<value>``; a ban that came back from a rack has no note.

        Raises:
            StageboxError: as :meth:`read`.
        """
        return dict((await self._shared.get()).record.notes)

    async def check(
        self, *, rack: str | None = None, machine_id: int | None = None, certificates: Iterable[str] = ()
    ) -> None:
        """Demand that none of these is banned.

        Raises:
            DeniedError: one is. StageboxError: as :meth:`read`; then it is not known, and must be refused too.
        """
        found = (await self.read()).matches(rack=rack, machine_id=machine_id, certificates=certificates)
        if found is not None:
            raise DeniedError(found)

    async def deny(self, kind: str, value: str, *, reason: str, actor: str) -> DenyList:
        """Ban a rack, a machine or a certificate; said again, it outlives copies in which it was lifted.

        Raises:
            InputError: not something to ban, a malformed reason, or the list is full. BusError: it is not in effect.
        """
        wanted = denied(kind, value)
        check_reason(reason)
        async with self._writing:
            before = (await self._current()).list
            entry = replace(wanted, since=self._after(before))
            note = Note(reason, actor, entry.since)
            before.with_denied(entry, now_ns=0)  # refuses here, not after the audit has said that it is done
            row = Row(actor, "deny", note_key(entry), "ok", reason)
            return await self._change(
                row,
                lambda at: at.list.with_denied(entry, now_ns=self._after(at.list)),
                lambda notes: {**notes, note_key(entry): note},
            )

    async def clear(self, kind: str, value: str, *, actor: str, reason: str = "") -> DenyList:
        """Lift a ban.

        Raises:
            InputError: there is no such ban, or a malformed reason. BusError: it is still in effect.
        """
        entry = denied(kind, value)
        check_reason(reason)
        async with self._writing:
            if entry not in (await self._current()).list.entries:
                raise InputError(
                    f"{kind} {value} is not denied", remedy="see what is: stagebox admin racks denied"
                )
            row = Row(actor, "clear", note_key(entry), "ok", reason)
            return await self._change(
                row,
                lambda at: at.list.without(entry, now_ns=self._after(at.list)),
                lambda notes: {key: note for key, note in notes.items() if key != note_key(entry)},
            )

    def wants(self, epoch: int, *, source: str) -> bool:
        """Tell whether ``source`` (a rack), which holds a list of ``epoch``, must be asked for it.

        Whatever its epoch: it may be from before a restore that this mixer knows nothing of. Each list is asked for
        once.
        """
        return epoch > 0 and self._heard.get(source) != epoch

    async def adopt(self, data: bytes, *, source: str) -> bool:
        """Take a signed list that ``source`` (a rack) holds; returns whether it changed ours.

        Raises:
            VerificationError, DecodeError: not a deny list of this cluster. StageboxError: as :meth:`deny`.
        """
        theirs = open_deny_list(data, self._authority.public)
        self._check_cluster(theirs)
        async with self._writing:
            epoch = (await self._current()).list.epoch
            await self._bring_in((theirs, data), actor=source, source="rack")
            await self._update_witness()
        self._heard[source] = theirs.epoch
        self._heard.move_to_end(source)
        if len(self._heard) > LIMITS.deny_list_sources:
            self._heard.popitem(last=False)
        return self._newest[0].epoch != epoch

    # Writing

    async def _change(
        self,
        row: Row,
        change: Callable[[_Copy], DenyList],
        annotate: Callable[[Mapping[str, Note]], Mapping[str, Note]],
    ) -> DenyList:
        await self._audit.record(row)
        with self._failure_recorded(row):
            while True:
                before = await self._current()
                after = change(before)
                if after is before.list:  # the other mixer did it meanwhile
                    break
                if await self._put(before, after, self._seal(after), annotate(before.record.notes)):
                    break
        await self._update_witness()
        return self._newest[0]

    async def _bring_in(
        self,
        theirs: tuple[DenyList, bytes],
        *,
        actor: str,
        source: str,
    ) -> None:
        """Make the registry hold the newest of its own list, the one seen last and ``theirs``."""
        while True:
            before = await self._current()
            cleared = before.record.cleared if source == "rack" else None
            after, signed = self._choose((before.list, before.signed), theirs, cleared)
            if after is before.list and before.stored:
                return
            detail: dict[str, str | int] = {
                "from_epoch": self._decoded.list.epoch, "to_epoch": after.epoch, "source": source,
                "denied": len(after.entries),
            }  # fmt: skip
            row = Row(actor, "deny_list_restored", _SUBJECT, "ok", "registry_behind", detail)
            await self._audit.record(row)
            with self._failure_recorded(row):
                if await self._put(before, after, signed, before.record.notes):
                    log.warning("deny_list_restored", **detail)
                    return

    async def _put(self, before: _Copy, after: DenyList, signed: bytes, notes: Mapping[str, Note]) -> bool:
        """Write by compare-and-set; False if somebody else wrote in between."""
        names = {note_key(entry) for entry in after.entries}
        kept = {key: note for key, note in notes.items() if key in names}
        cleared = cleared_after(before.record.cleared, before.list, after)
        data = Record(signed, kept, cleared, before.record.extra).encode()
        with explained("the deny list"):
            kv = await self._kv()
            try:
                if before.revision:
                    await kv.update(_KEY, data, last=before.revision)
                else:
                    await kv.create(_KEY, data)
            except KeyWrongLastSequenceError:
                return False
        self._took_effect(after, signed)
        return True

    def _took_effect(self, now: DenyList, signed: bytes) -> None:
        before, self._newest = self._newest[0], (now, signed)
        if now.epoch != before.epoch:
            self.changed(now)

    async def _write_witness(self) -> None:
        now, signed = self._newest
        if now.epoch != self._witnessed:
            await asyncio.to_thread(self._witness.save, signed)
            self._witnessed = now.epoch

    async def _update_witness(self) -> None:
        try:
            await self._write_witness()
        except StorageError as error:
            # The ban stands in the registry; :meth:`heal` tries again.
            log.error("deny_list_copy_failed", error=error.message, remedy=error.remedy)

    @contextlib.contextmanager
    def _failure_recorded(self, row: Row) -> Iterator[None]:
        try:
            yield
        except (StageboxError, asyncio.CancelledError) as error:
            why = error.message if isinstance(error, StageboxError) else "interrupted"
            self._audit.refused(replace(row, result="failed", reason=why))
            raise

    # Reading

    async def _current(self) -> _Copy:
        """Read the registry's list; one that is older than what was seen before does not take its place."""
        with explained("the deny list"):
            try:
                found = await (await self._kv()).get(_KEY)
            except KeyNotFoundError:
                found = None
        if found is None or found.value is None or found.revision is None:
            self._decoded = self._nothing
        elif self._decoded.revision != found.revision:
            self._decoded = self._open(found.value, found.revision)
        copy = self._decoded
        if copy.signed == self._newest[1]:
            return copy
        chosen, signed = self._choose((copy.list, copy.signed), self._newest)
        if chosen is copy.list:
            self._took_effect(chosen, signed)  # another mixer changed it
            return copy
        return replace(copy, list=chosen, signed=signed, stored=False)

    def _choose(
        self,
        own: tuple[DenyList, bytes],
        other: tuple[DenyList, bytes],
        cleared: Mapping[str, int] | None = None,
    ) -> tuple[DenyList, bytes]:
        found = newest(own[0], other[0], now_ns=self._after(own[0]), cleared=cleared)
        if found is own[0]:
            return own
        return other if found is other[0] else (found, self._seal(found))

    def _open(self, data: bytes, revision: int) -> _Copy:
        record = Record.decode(data)
        opened = open_deny_list(record.signed, self._authority.public)
        self._check_cluster(opened)
        return _Copy(opened, record.signed, record, revision)

    def _check_cluster(self, found: DenyList) -> None:
        if found.cluster != self._cluster:
            raise VerificationError(
                f"the deny list is of cluster {found.cluster!r}, not of {self._cluster!r}"
            )

    def _seal(self, unsigned: DenyList) -> bytes:
        return self._authority.seal(DOMAIN_DENY_LIST, unsigned.encode())

    def _after(self, before: DenyList) -> int:
        # A clock that was set back must not make a later list look older than an earlier one.
        return max(self._clock(), before.time_ns + 1)

    async def _kv(self) -> KeyValue:
        context = self._jetstream()
        if self._bound is None or self._bound[0] is not context:
            self._bound = (context, await context.key_value(DENIED_BUCKET))
        return self._bound[1]


def _nobody(_: DenyList) -> None:
    """Stand in until somebody wants to know."""
