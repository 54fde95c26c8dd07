"""The lifecycle with its I/O: racks' requests, operators' decisions, and the proof that a new identity arrived.

Everything is decided on the entry and the deny list as they are read at that moment, audited, then written by
compare-and-set. What the rest of the mixer does about it hangs on two hooks: ``deliver`` (an issue waits that a
command must bring) and ``changed`` (a rack's rights changed: look at its connections). Both are called after the
write; a crash before them is made good by the rack's next ``sync`` and by the sweep over connections.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from stagebox.control.request import Verb
from stagebox.errors import InputError
from stagebox.identity import check_name
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle import machine
from stagebox_mixer.lifecycle.answers import Answers, Caller
from stagebox_mixer.lifecycle.audited import AuditedRacks, AuditLog, Change, RackRegistry
from stagebox_mixer.lifecycle.desk import Denials, Desk
from stagebox_mixer.lifecycle.issuing import Issuer
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.lifecycle.refusals import check_not_denied, registered
from stagebox_mixer.lifecycle.renewing import Renewing
from stagebox_mixer.lifecycle.reporting import Reporting
from stagebox_mixer.registry.model import RackEntry


class LifecycleService:
    """Renews, reports, decides. ``clock`` gives ns since the Unix epoch, ``entropy`` random bytes."""

    def __init__(
        self,
        *,
        keys: MixerKeys,
        registry: RackRegistry,
        audit: AuditLog,
        denials: Denials,
        terms: Terms | None = None,
        clock: Callable[[], int] = time.time_ns,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        terms = terms if terms is not None else Terms()
        self._desk = Desk(
            cluster=keys.cluster.name,
            racks=AuditedRacks(registry.racks, audit),
            denials=denials,
            issuer=Issuer(keys, certificate_days=terms.certificate_days),
            terms=terms,
            clock=clock,
            entropy=entropy,
        )
        self._answers = Answers(keys.cluster.name, keys.authority, audit, clock)
        self._renewing = Renewing(self._desk)
        self._reporting = Reporting(self._desk, lambda name: self.deliver(name))
        self.deliver: Callable[[str], None] = _nobody
        self.changed: Callable[[str], None] = _nobody

    # --- what racks ask ---------------------------------------------------------------------------------

    async def renew(self, data: bytes, *, via: str, host: str) -> bytes:
        """Answer a renewal request (``via`` is ``snake`` or ``https``).

        Raises:
            BusError: the registry or the audit cannot be used; nothing was promised.
        """
        return await self._answers.answer(Verb.RENEW, data, Caller(host, via), self._renewing.grant)

    async def sync(self, data: bytes, *, host: str) -> bytes:
        """Answer a rack's report of where it stands.

        Raises:
            BusError: as :meth:`renew`.
        """
        return await self._answers.answer(Verb.SYNC, data, Caller(host, "snake"), self._reporting.sync)

    async def deny_list(self, data: bytes, *, host: str) -> bytes:
        """Take the deny list a rack was asked for.

        Raises:
            BusError: as :meth:`renew`.
        """
        return await self._answers.answer(
            Verb.DENY_LIST, data, Caller(host, "snake"), self._reporting.deny_list
        )

    # --- what operators decide --------------------------------------------------------------------------

    async def approve(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """Let a pending rack in; its active passport goes to it by command.

        Raises:
            InputError: no such rack, or it is not pending. LifecycleRefused: it is denied. BusError: no storage.
        """
        return await self._decide(name, "approve", actor, reason)

    async def suspend(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """Let a rack only report and obey from now on. Suspending it again sends it the news again.

        Raises:
            InputError: no such rack. BusError: no storage.
        """
        return await self._decide(name, "suspend", actor, reason)

    async def activate(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """End a suspension.

        Raises:
            InputError: no such rack, or it is pending. LifecycleRefused: it is denied. BusError: no storage.
        """
        return await self._decide(name, "activate", actor, reason)

    async def rotate_secret(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """Issue a passport with a new secret; the old one holds until the rack has proved the new one.

        Raises:
            InputError: no such rack. LifecycleRefused: it is denied. BusError: no storage.
        """
        return await self._decide(name, "rotate_secret", actor, reason)

    async def remove(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """Evict a rack: its identity ends, and it comes back only with a new token. (To ban it, deny it.)

        Raises:
            InputError: no such rack. BusError: no storage.
        """

        def decide(entry: RackEntry | None) -> Change:
            gone = machine.remove(_known(entry, name), now_ns=self._desk.clock())
            return Change(gone, Row(actor, "remove", name, "ok", reason, {"serial": gone.highest_serial}))

        entry = await self._desk.racks.change(check_name("rack", name), decide)
        self.changed(name)
        return entry

    async def confirm(self, name: str, serial: int) -> None:
        """Make the waiting issue ``serial`` the rack's identity: it has just proved it. Admit only after this.

        Raises:
            LifecycleRefused: ``superseded``, ``unknown_rack`` or ``removed``: do not admit. BusError: no storage.
        """

        def decide(entry: RackEntry | None) -> Change | RackEntry:
            current = registered(entry, name)
            proved = machine.confirm(current, serial)
            if proved is current:
                return current
            row = Row(self._desk.uri(current), "confirm", name, "ok", "", _identity(proved))
            if proved.rack_public != current.rack_public:
                row.detail["replaced_key"] = current.rack_public.hex()
            return Change(proved, row)

        await self._desk.racks.change(check_name("rack", name), decide)
        self.changed(name)

    def pending_passport(self, entry: RackEntry) -> bytes | None:
        """Return the signed passport that a command must bring to the rack; None if none waits.

        An issue with a certificate travels in the answer to the rack's own request, which it repeats.
        """
        if entry.pending is None or entry.pending.certificate_der:
            return None
        return self._desk.issuer.passport(entry, entry.pending)

    def trust_bundle(self) -> bytes:
        """Return the signed trust bundle in force."""
        return self._desk.issuer.trust_bundle()

    # --- decisions --------------------------------------------------------------------------------------

    async def _decide(self, name: str, action: str, actor: str, reason: str) -> RackEntry:
        check_name("rack", name)
        if action != "suspend":  # a suspension takes rights away; it is never refused
            check_not_denied(await self._desk.denials.read(), name, await self._desk.racks.get(name))

        def decide(entry: RackEntry | None) -> Change | RackEntry:
            current = _known(entry, name)
            if machine.next_status(current, action) is current.status and action != "rotate_secret":
                return current
            after = self._desk.reissue(current, action)
            facts: dict[str, str | int] = {"serial": after.highest_serial, "status": after.status.value}
            return Change(after, Row(actor, action, name, "ok", reason, facts))

        entry = await self._desk.racks.change(name, decide)
        if self.pending_passport(entry) is not None:
            self.deliver(name)
        self.changed(name)
        return entry


def _known(entry: RackEntry | None, name: str) -> RackEntry:
    if entry is None or entry.removed_at:
        raise InputError(f"no rack {name!r} is registered", remedy="stagebox admin racks list")
    return entry


def _identity(entry: RackEntry) -> dict[str, str | int]:
    return {"serial": entry.serial, "certificate": entry.certificate, "key": entry.rack_public.hex()}


def _nobody(_name: str) -> None:
    """Stand for a hook nobody has set."""
