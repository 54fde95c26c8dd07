"""Racks' reports with their I/O: what a rack says on connecting, and the deny list it is asked for.

A report that says nothing new writes nothing, a rack's reports change its entry at most once in
``sync_write_interval_s``, and one issue is sent for at most once in ``sync_deliver_interval_s``, so that no rack can
fill the registry or the audit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog

from stagebox import cbor
from stagebox.certificates import fingerprint, parse_der_chain
from stagebox.control.denylist import DenyList
from stagebox.control.request import ReceivedRequest, Verb
from stagebox.control.sync import SyncAnswer, SyncReport
from stagebox.errors import DecodeError, VerificationError
from stagebox.identity import RackId
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle import proof, reports
from stagebox_mixer.lifecycle.answers import Caller
from stagebox_mixer.lifecycle.audited import Change
from stagebox_mixer.lifecycle.desk import Desk, moment
from stagebox_mixer.lifecycle.refusals import LifecycleRefused, check_not_denied, denied, registered
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry

log = structlog.get_logger()

_NS = 1_000_000_000


class _Spaced:
    """Lets something through at most once in an interval for each key; the keys unseen for longest are forgotten."""

    def __init__(self, interval_s: float) -> None:
        self._interval_ns = int(interval_s * _NS)
        self._last: OrderedDict[tuple[str, int], int] = OrderedDict()

    def admits(self, name: str, number: int, now_ns: int) -> bool:
        """Tell whether ``name`` and ``number`` may go on now; if so, the interval begins anew."""
        key = (name, number)
        last = self._last.get(key)
        if last is not None and 0 <= now_ns - last < self._interval_ns:
            return False
        self._last[key] = now_ns
        self._last.move_to_end(key)
        while len(self._last) > LIMITS.sync_racks:
            self._last.popitem(last=False)
        return True


class Reporting:
    """Grants ``sync`` and ``deny-list``; ``deliver`` is told of racks that lack an issue a command must bring."""

    def __init__(self, desk: Desk, deliver: Callable[[str], None]) -> None:
        self._desk = desk
        self._deliver = deliver
        self._written = _Spaced(LIMITS.sync_write_interval_s)
        self._delivered = _Spaced(LIMITS.sync_deliver_interval_s)

    async def sync(self, received: ReceivedRequest, caller: Caller) -> dict[str, Any]:
        """Return the body of the answer to a report.

        Raises:
            LifecycleRefused: it is not believed. BusError: no storage.
        """
        name = proof.check_addressed(received, Verb.SYNC, self._desk.cluster).rack
        entry, bans = await self._admissible(name)
        report = proof.verify_report(received, entry, self._desk.issuer.anchors)
        caller.proved = self._desk.uri(entry)
        certificate = self._reported_certificate(report, entry)
        if bans.matches(certificates=(certificate.fingerprint,)) is not None:
            raise denied(name, "certificate")
        reports.check_report(entry, report)
        entry = await self._take_report(entry, report, certificate)
        if reports.lacks_issue(entry, report) and self._may_deliver(entry):
            self._deliver(name)
        if self._desk.denials.wants(report.deny_epoch, source=caller.proved):
            return SyncAnswer(want_deny_list=True, command=entry.command_seq).body()
        newer = await self._desk.denials.signed() if report.deny_epoch < bans.epoch else b""
        return SyncAnswer(newer, command=entry.command_seq).body()

    async def _take_report(
        self, entry: RackEntry, report: SyncReport, certificate: reports.ReportedCertificate
    ) -> RackEntry:
        now_ns = self._desk.clock()

        def decide(found: RackEntry | None) -> Change | RackEntry:
            current = registered(found, entry.name)
            if current.rack_public != entry.rack_public:
                return current  # another identity since: this one spoke for the one before
            reports.check_report(current, report)
            after = reports.reported(current, report, certificate)
            news = reports.changes(current, after)
            if reports.passport_is_due(after, self._desk.terms, now_ns):
                after = self._desk.reissue(after, "rotate_secret")
                news["serial"] = after.highest_serial
            if not news:
                return current
            return Change(after, Row(self._desk.uri(current), "report", current.name, "ok", "", news))

        if isinstance(unchanged := decide(entry), RackEntry):
            return unchanged
        if not self._written.admits(entry.name, 0, now_ns):
            return entry  # it says the same again at its next report
        taken = await self._desk.racks.change(entry.name, decide)
        if taken.problem and taken.problem != entry.problem:
            log.warning("rack_cannot_renew", rack=taken.name, problem=taken.problem)
        return taken

    def _reported_certificate(self, report: SyncReport, entry: RackEntry) -> reports.ReportedCertificate:
        rack = RackId(self._desk.cluster, entry.tenant, entry.name)
        try:
            chain = parse_der_chain(report.chain, "the reported certificate chain")
        except DecodeError as error:
            raise LifecycleRefused("malformed", error.message) from None
        now = moment(self._desk.clock())
        keys = {entry.rack_public, entry.pending.rack_public if entry.pending else entry.rack_public}
        try:
            leaf = proof.verify_leaf(chain, rack, entry.rack_public, self._desk.issuer.anchors, now)
        except LifecycleRefused as refusal:
            if refusal.code != "certificate_key" or len(keys) == 1 or entry.pending is None:
                raise
            # Not yet proved, so nothing is taken over from it.
            leaf = proof.verify_leaf(chain, rack, entry.pending.rack_public, self._desk.issuer.anchors, now)
            return reports.ReportedCertificate(fingerprint(leaf), 0)
        return reports.ReportedCertificate(fingerprint(leaf), proof.end_of(leaf))

    def _may_deliver(self, entry: RackEntry) -> bool:
        """A rack that never takes its passport would else get commands, and fill the audit, as fast as it asks."""
        serial = entry.pending.serial if entry.pending is not None else 0
        return self._delivered.admits(entry.name, serial, self._desk.clock())

    async def deny_list(self, received: ReceivedRequest, caller: Caller) -> dict[str, Any]:
        """Take the deny list a rack was asked for.

        Raises:
            LifecycleRefused: it is not believed. BusError: no storage.
        """
        request = proof.check_addressed(received, Verb.DENY_LIST, self._desk.cluster)
        entry, _ = await self._admissible(request.rack)
        proof.verify_by_entry(received, entry)
        caller.proved = self._desk.uri(entry)
        try:
            data = cbor.take_bytes(dict(request.body), "List", "deny list")
            await self._desk.denials.adopt(data, source=caller.proved)
        except DecodeError as error:
            raise LifecycleRefused("malformed", error.message) from None
        except VerificationError as error:
            raise LifecycleRefused("not_ours", error.message) from None
        return {}

    async def _admissible(self, name: str) -> tuple[RackEntry, DenyList]:
        bans = await self._desk.denials.read()
        found = await self._desk.racks.get(name)
        check_not_denied(bans, name, found)
        return registered(found, name), bans
