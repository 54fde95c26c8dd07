"""Which command is on its way to which rack, when it is sent again, and which ack belongs to it. Pure.

Rules: sequences are taken from the registry entry and never given twice; a rack has at most one command on its way;
an ack counts only for the command whose digest it names; what was settled stays known for a while, so that a repeated
ack is not taken for a strange one. Times are seconds of any monotonic clock, except where they end in ``_ns``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stagebox.control.command import Ack, Command
from stagebox.control.fields import payload_digest
from stagebox.errors import InputError, VerificationError
from stagebox.limits import LIMITS as SHARED
from stagebox_mixer.registry.model import RackEntry

_LAST_SEQUENCE = (1 << 64) - 1


class AckRefused(VerificationError):
    """An ack does not prove what it claims; ``code`` goes to the audit."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def numbered(entry: RackEntry) -> RackEntry:
    """Return the entry with the next command sequence taken.

    Raises:
        InputError: the rack is removed, or its sequences are used up.
    """
    if entry.removed_at:
        raise InputError(f"rack {entry.name!r} was removed", remedy="enroll it again to command it")
    if entry.command_seq >= _LAST_SEQUENCE:
        raise InputError(
            f"rack {entry.name!r} reported the last command sequence there is",
            remedy="its software is broken or hostile: remove it and enroll the machine under another name",
        )
    return replace(entry, command_seq=entry.command_seq + 1)


def issue(
    entry: RackEntry, *, cluster: str, verb: str, args: Mapping[str, Any], now_ns: int, ttl_ns: int
) -> Command:
    """Return the command that uses the sequence just taken in ``entry``.

    Raises:
        InputError: the arguments do not fit a command.
    """
    command = Command(
        cluster=cluster,
        rack=entry.name,
        seq=entry.command_seq,
        issued=now_ns,
        expires=now_ns + ttl_ns,
        verb=verb,
        args=dict(args),
    )
    size = len(command.encode())
    if size > SHARED.max_control_bytes:
        raise InputError(
            f"a command {verb!r} of {size} bytes is over the limit of {SHARED.max_control_bytes}"
        )
    return command


@dataclass(frozen=True)
class Outgoing:
    """A command with its wire form; ``digest`` is what its ack names."""

    command: Command
    data: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        """The digest of the command's payload."""
        return payload_digest(self.command.encode())


@dataclass
class _Slot:
    outgoing: Outgoing
    digest: bytes
    send_at: float
    expires_at: float
    give_up_at: float


class Outbox:
    """The commands on their way. ``settled`` bounds how many ended ones are remembered."""

    def __init__(self, *, cluster: str, resend_s: float, grace_s: float, settled: int) -> None:
        self._cluster = cluster
        self._resend_s = resend_s
        self._grace_s = grace_s
        self._max_settled = settled
        self._slots: dict[str, _Slot] = {}
        self._settled: OrderedDict[bytes, None] = OrderedDict()
        self._unanswered: OrderedDict[bytes, Outgoing] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, outgoing: Outgoing, now: float) -> None:
        """Take a command; its life is its own from ``issued`` to ``expires``.

        Raises:
            ValueError: another one is on its way to the same rack.
        """
        command = outgoing.command
        if command.rack in self._slots:
            raise ValueError(f"a command is on its way to rack {command.rack!r} already")
        expires_at = now + (command.expires - command.issued) / 1e9
        self._slots[command.rack] = _Slot(
            outgoing, outgoing.digest, now, expires_at, expires_at + self._grace_s
        )

    def due(self, rack: str, now: float) -> bytes | None:
        """Return what is to be sent to ``rack`` now, if anything, and note that it is."""
        slot = self._slots[rack]
        if not slot.send_at <= now < slot.expires_at:
            return None
        slot.send_at = now + self._resend_s
        return slot.outgoing.data

    def wakes_at(self, rack: str) -> float:
        """Return when :meth:`due` or :meth:`given_up` has something new to say."""
        slot = self._slots[rack]
        return slot.send_at if slot.send_at < slot.expires_at else slot.give_up_at

    def given_up(self, rack: str, now: float) -> bool:
        """Tell whether no ack can be expected any more."""
        return now >= self._slots[rack].give_up_at

    def examine(self, rack: str, ack: Ack) -> Outgoing | None:
        """Return the command that an ack, **not yet verified**, received on the subject of ``rack`` is for.

        None for a command that was answered before: the rack repeats its ack when it hears a command again.

        Raises:
            AckRefused: no command of ours.
        """
        if ack.rack != rack:
            raise AckRefused("other_rack", f"an ack of rack {ack.rack!r} came on the subject of {rack!r}")
        if ack.cluster != self._cluster:
            raise AckRefused("other_cluster", f"an ack in cluster {ack.cluster!r}")
        if ack.command in self._settled:
            return None
        slot = self._slots.get(rack)
        found = slot.outgoing if slot is not None and slot.digest == ack.command else None
        if found is None:
            found = self._unanswered.get(ack.command)
        if found is None or found.command.rack != rack or found.command.seq != ack.seq:
            raise AckRefused("unknown_command", f"an ack of command {ack.seq}, which was not sent")
        return found

    def on_its_way(self, outgoing: Outgoing) -> bool:
        """Tell whether somebody still waits for this command's ack."""
        slot = self._slots.get(outgoing.command.rack)
        return slot is not None and slot.outgoing is outgoing

    def answered(self, outgoing: Outgoing) -> None:
        """Note that a verified ack came, in time or late."""
        self._free(outgoing)
        self._unanswered.pop(outgoing.digest, None)
        self._settled[outgoing.digest] = None
        while len(self._settled) > self._max_settled:
            self._settled.popitem(last=False)

    def abandon(self, outgoing: Outgoing) -> None:
        """Note that nobody waits any more; an ack that comes late is still recognised."""
        self._free(outgoing)
        self._unanswered[outgoing.digest] = outgoing
        while len(self._unanswered) > self._max_settled:
            self._unanswered.popitem(last=False)

    def _free(self, outgoing: Outgoing) -> None:
        if self.on_its_way(outgoing):
            del self._slots[outgoing.command.rack]
