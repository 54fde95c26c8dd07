"""Answers racks' requests ``patch`` and ``module``: the sheet they are to run, and the files it names, in pieces.

Only a rack that is registered, active and not denied is answered, and it gets only what is on its own sheet. The file
of a piece is read by its digest and checked against it. Neither request changes anything.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stagebox import cbor
from stagebox.control.denylist import DenyList
from stagebox.control.request import ReceivedRequest, Request, Verb
from stagebox.errors import DecodeError, ModuleError
from stagebox.identity import RackId
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import DIGEST_BYTES
from stagebox.passport import PassportStatus
from stagebox_keys.authority import ClusterAuthority
from stagebox_mixer.lifecycle import proof
from stagebox_mixer.lifecycle.answers import Answers, Caller
from stagebox_mixer.lifecycle.audited import AuditLog
from stagebox_mixer.lifecycle.refusals import LifecycleRefused, check_not_denied, registered
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.sheets import Sheets, inserts_of
from stagebox_mixer.modules.store import DenyLists, ModuleStore
from stagebox_mixer.registry.model import RackEntry


class Racks(Protocol):
    """The registered racks."""

    async def rack(self, name: str) -> RackEntry | None:
        """Return one rack, or None."""


@dataclass(frozen=True)
class _Allowed:
    """The files a rack may have, as of a deny list and a sheet."""

    epoch: int
    serial: int
    digests: frozenset[bytes]


class ModuleAnswers:
    """The handlers of both verbs."""

    def __init__(
        self,
        *,
        cluster: str,
        authority: ClusterAuthority,
        racks: Racks,
        denials: DenyLists,
        audit: AuditLog,
        store: ModuleStore,
        sheets: Sheets,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._cluster = cluster
        self._racks = racks
        self._denials = denials
        self._store = store
        self._sheets = sheets
        self._answers = Answers(cluster, authority, audit, clock)
        self._allowed: OrderedDict[str, _Allowed] = OrderedDict()

    async def patch(self, data: bytes, host: str) -> bytes:
        """Answer a rack that asks for its sheet.

        Raises:
            BusError: the mixer cannot answer now.
        """
        return await self._answers.answer(Verb.PATCH, data, Caller(host, "snake"), self._grant_patch)

    async def module(self, data: bytes, host: str) -> bytes:
        """Answer a rack that asks for a piece of a file.

        Raises:
            BusError: as :meth:`patch`.
        """
        return await self._answers.answer(Verb.MODULE, data, Caller(host, "snake"), self._grant_module)

    async def _grant_patch(self, received: ReceivedRequest, caller: Caller) -> dict[str, Any]:
        request, _ = await self._proved(received, Verb.PATCH, caller)
        try:
            held = cbor.take_uint(dict(request.body), "Serial", "patch request")
        except DecodeError as error:
            raise LifecycleRefused("malformed", error.message) from None
        made = await self._sheets.issue(request.rack, held=held)
        # Whoever holds it already is spared to write it down again.
        self._sheets.taken(request.rack, made.sheet.serial)
        return {"Sheet": made.data if made.sheet.serial != held else b""}

    async def _grant_module(self, received: ReceivedRequest, caller: Caller) -> dict[str, Any]:
        request, denied = await self._proved(received, Verb.MODULE, caller)
        try:
            fields = dict(request.body)
            digest = cbor.take_bytes(fields, "Digest", "module request", length=DIGEST_BYTES)
            offset = cbor.take_uint(fields, "Offset", "module request")
        except DecodeError as error:
            raise LifecycleRefused("malformed", error.message) from None
        await self._check_assigned(request.rack, digest, denied)
        try:
            file = await self._store.files.get(digest)
        except ModuleError as error:
            raise LifecycleRefused(error.code, error.message) from None
        if offset > len(file):
            raise LifecycleRefused("malformed", f"the module has {len(file)} bytes")
        return {"Size": len(file), "Data": file[offset : offset + FORMAT.module_chunk_bytes]}

    async def _check_assigned(self, rack: str, digest: bytes, denied: DenyList) -> None:
        # A file comes in many pieces; the state is read again only when a ban or a sheet came in between.
        last = self._sheets.last(rack)
        serial = last.sheet.serial if last is not None else 0
        known = self._allowed.get(rack)
        current = known is not None and (known.epoch, known.serial) == (denied.epoch, serial)
        if known is not None and current and digest in known.digests:
            return
        catalogue = await self._store.catalogue()
        digests = frozenset(insert.digest for insert in inserts_of(rack, catalogue))
        self._allowed[rack] = _Allowed(catalogue.denied.epoch, serial, digests)
        self._allowed.move_to_end(rack)
        while len(self._allowed) > LIMITS.patch_racks:
            self._allowed.popitem(last=False)
        if digest in digests:
            return
        entry = catalogue.by_digest(digest)
        if entry is None:
            raise LifecycleRefused("unknown_module", f"no module has the digest {digest.hex()}")
        if catalogue.revoked(entry):
            raise LifecycleRefused("revoked", f"{entry.title} is revoked")
        raise LifecycleRefused("not_assigned", f"{entry.title} is not on the patch sheet of rack {rack!r}")

    async def _proved(
        self, received: ReceivedRequest, verb: Verb, caller: Caller
    ) -> tuple[Request, DenyList]:
        """Return a request that an active rack signed, and the deny list that it was held against."""
        request = proof.check_addressed(received, verb, self._cluster)
        denied = await self._denials.read()
        found = await self._racks.rack(request.rack)
        check_not_denied(denied, request.rack, found)
        entry = registered(found, request.rack)
        proof.verify_by_entry(received, entry)
        caller.proved = RackId(self._cluster, entry.tenant, entry.name).uri
        if entry.status is not PassportStatus.ACTIVE:
            raise LifecycleRefused("not_active", f"rack {entry.name!r} is {entry.status.value}")
        return request, denied
