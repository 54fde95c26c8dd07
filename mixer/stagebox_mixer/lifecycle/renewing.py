"""Renewal with its I/O: verify, decide on the entry and the deny list as they are now, audit, write."""

from __future__ import annotations

from typing import Any

import structlog

from stagebox.control.denylist import DenyList
from stagebox.control.request import ReceivedRequest
from stagebox.errors import VerificationError
from stagebox.identity import RackId
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle import proof, renewal
from stagebox_mixer.lifecycle.answers import Caller
from stagebox_mixer.lifecycle.audited import Change
from stagebox_mixer.lifecycle.desk import Desk, moment
from stagebox_mixer.lifecycle.machine import Certified
from stagebox_mixer.lifecycle.refusals import LifecycleRefused, check_not_denied, registered
from stagebox_mixer.registry.model import RackEntry

log = structlog.get_logger()


class Renewing:
    """Grants ``renew``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def grant(self, received: ReceivedRequest, caller: Caller) -> dict[str, Any]:
        """Return the body of the answer.

        Raises:
            LifecycleRefused: the renewal is refused. BusError: no storage.
        """
        now_ns = self._desk.clock()
        proved = proof.verify_renewal(received, self._desk.issuer.anchors, moment(now_ns))
        shown = proved.presented
        rack = RackId(self._desk.cluster, shown.tenant, shown.name)
        caller.proved = rack.uri
        bans = await self._desk.denials.read()
        found = await self._desk.racks.get(rack.name)
        self._check_denied(bans, found, shown)
        if found is not None and shown.serial > found.highest_serial:
            await self._learn(rack, shown, caller)
        signed: list[Certified] = []

        def decide(entry: RackEntry | None) -> Change | RackEntry:
            current = registered(entry, rack.name)
            self._check_denied(bans, current, shown)
            decision = renewal.judge_renewal(
                current, shown, key=proved.key, request=proved.digest, terms=self._desk.terms, now_ns=now_ns
            )
            if decision.repeat:
                return current
            if not signed:
                signed.append(self._certify(proved, rack, now_ns))
            entry = renewal.renewed(
                decision, key=proved.key, certificate=signed[0], request=proved.digest,
                secret_of=self._desk.issuer.secret_of, terms=self._desk.terms, now_ns=now_ns,
            )  # fmt: skip
            return Change(entry, _renewal_row(rack, current, decision, entry, caller))

        entry = await self._desk.racks.change(rack.name, decide)
        assert entry.pending is not None
        return self._desk.issuer.renewal(entry, entry.pending).body()

    def _certify(self, proved: proof.RenewalProof, rack: RackId, now_ns: int) -> Certified:
        try:
            return self._desk.issuer.certify(proved.csr, rack, now_ns=now_ns)
        except VerificationError as error:
            raise LifecycleRefused("csr", error.message) from None

    def _check_denied(self, bans: DenyList, entry: RackEntry | None, shown: renewal.Presented) -> None:
        check_not_denied(bans, shown.name, entry, machine_id=shown.machine_id, certificate=shown.certificate)

    async def _learn(self, rack: RackId, shown: renewal.Presented, caller: Caller) -> None:
        """Note a serial that the registry does not know, even if the renewal itself is refused then."""

        def decide(entry: RackEntry | None) -> Change | RackEntry:
            if entry is None:
                return registered(entry, rack.name)
            wiser = renewal.learn(entry, shown)
            if wiser is entry:
                return entry
            facts = {"serial": shown.serial, "known": entry.highest_serial, "status": wiser.status.value}
            return Change(wiser, Row(rack.uri, "registry_behind", rack.name, "ok", caller.via, facts))

        log.warning("registry_behind", rack=rack.name, serial=shown.serial)
        await self._desk.racks.change(rack.name, decide)


def _renewal_row(
    rack: RackId,
    before: RackEntry,
    decision: renewal.RenewalDecision,
    after: RackEntry,
    caller: Caller,
) -> Row:
    assert after.pending is not None
    detail: dict[str, str | int] = {
        "serial": after.pending.serial,
        "certificate": after.pending.certificate,
        "key": after.pending.rack_public.hex(),
        "presented": decision.entry.serial,
        "via": caller.via,
        "host": caller.host,
    }
    if after.pending.rack_public != before.rack_public:
        detail["replaced_key"] = before.rack_public.hex()
    if decision.grace:
        detail["grace_uses"] = after.grace_uses
    reason = "adopted" if decision.adopted else ""
    return Row(rack.uri, "renew_grace" if decision.grace else "renew", rack.name, "ok", reason, detail)
