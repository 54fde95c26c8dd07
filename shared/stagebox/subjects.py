"""Subjects of the bus: how they are built, parsed and who may use which.

The table of subjects is docs/reference/subjects.md; this module is its only code.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from stagebox.errors import InputError
from stagebox.identity import check_name


class Kind(enum.StrEnum):
    """The second token after the rack's name."""

    METER = "meter"
    AUDIO = "audio"
    STATUS = "status"
    EVENT = "event"
    ALERT = "alert"
    ACK = "ack"
    CHECKPOINT = "checkpoint"
    WAL = "wal"
    REQUEST = "req"


_WITH_LEAF = frozenset({Kind.METER, Kind.AUDIO, Kind.REQUEST})


@dataclass(frozen=True)
class Subject:
    """A parsed ``rack.<rack>.<kind>[.<leaf>]``."""

    rack: str
    kind: Kind
    leaf: str | None = None

    def __str__(self) -> str:
        suffix = f".{self.leaf}" if self.leaf is not None else ""
        return f"rack.{self.rack}.{self.kind.value}{suffix}"


def of_rack(rack: str, kind: Kind, leaf: str | None = None) -> str:
    """Return the subject ``rack.<rack>.<kind>[.<leaf>]``.

    Raises:
        InputError: an illegal name, or a leaf where none belongs.
    """
    check_name("rack", rack)
    if (leaf is not None) != (kind in _WITH_LEAF):
        raise InputError(f"subject kind {kind.value!r} {'needs' if leaf is None else 'takes no'} leaf")
    if leaf is not None:
        check_name("source, bus or verb", leaf)
    return str(Subject(rack, kind, leaf))


def meter(rack: str, source: str) -> str:
    """Meter frames of one source."""
    return of_rack(rack, Kind.METER, source)


def audio(rack: str, bus: str) -> str:
    """Opus packets of one monitor bus."""
    return of_rack(rack, Kind.AUDIO, bus)


def status(rack: str) -> str:
    """The heartbeat."""
    return of_rack(rack, Kind.STATUS)


def event(rack: str) -> str:
    """What happened."""
    return of_rack(rack, Kind.EVENT)


def alert(rack: str) -> str:
    """What needs somebody's attention."""
    return of_rack(rack, Kind.ALERT)


def checkpoint(rack: str) -> str:
    """Signed digests of the live records."""
    return of_rack(rack, Kind.CHECKPOINT)


def wal(rack: str) -> str:
    """Journal batches on the durable path."""
    return of_rack(rack, Kind.WAL)


def ack(rack: str) -> str:
    """Signed answers to commands."""
    return of_rack(rack, Kind.ACK)


def request(rack: str, verb: str) -> str:
    """Signed requests to the mixer."""
    return of_rack(rack, Kind.REQUEST, verb)


def command(rack: str) -> str:
    """Signed commands to one rack."""
    return f"mixer.cmd.{check_name('rack', rack)}"


def parse(subject: str) -> Subject:
    """Parse a concrete rack subject.

    Raises:
        InputError: not a subject of the table.
    """
    parts = subject.split(".")
    if len(parts) not in (3, 4) or parts[0] != "rack":
        raise InputError(f"{subject!r} is not a rack subject")
    try:
        kind = Kind(parts[2])
    except ValueError:
        raise InputError(f"{subject!r} has an unknown kind {parts[2]!r}") from None
    leaf = parts[3] if len(parts) == 4 else None
    of_rack(parts[1], kind, leaf)
    return Subject(parts[1], kind, leaf)


ALL_REQUESTS = "rack.*.req.*"
ALL_ACKS = "rack.*.ack"
ALL_STATUSES = "rack.*.status"
ALL_COMMANDS = "mixer.cmd.*"
TRUST = "mixer.trust"
BEACON = "mixer.beacon"
DENY_LIST = "mixer.denied"


@dataclass(frozen=True)
class Permissions:
    """What a connection may publish and subscribe (NATS subject patterns). What is denied wins."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    subscribe_deny: tuple[str, ...] = ()


def inbox_prefix(identity_kind: str, name: str) -> str:
    """Return the private inbox prefix of one identity, so that nobody can read another's replies."""
    return f"_INBOX_{identity_kind}_{name}"


def rack_permissions(rack: str, wal_stream: str) -> Permissions:
    """A rack publishes under its own name, reads its own last WAL batch and listens to the mixer."""
    check_name("rack", rack)
    return Permissions(
        publish=(f"rack.{rack}.>", f"$JS.API.DIRECT.GET.{wal_stream}.{wal(rack)}"),
        subscribe=_rack_subscriptions(rack),
    )


def limited_rack_permissions(rack: str) -> Permissions:
    """A pending or suspended rack says that it lives, asks its mixer and answers commands; nothing else."""
    return Permissions(
        publish=(status(rack), ack(rack), f"{request(rack, 'x').removesuffix('x')}*"),
        subscribe=_rack_subscriptions(rack),
    )


def _rack_subscriptions(rack: str) -> tuple[str, ...]:
    return (command(rack), TRUST, BEACON, DENY_LIST, f"{inbox_prefix('rack', rack)}.>")


def client_permissions() -> Permissions:
    """Every role reads telemetry and publishes nothing: commands go through the mixer's API, which signs them.

    Requests of racks are hidden: they carry the passport. Stock clients use the default ``_INBOX`` prefix, so all
    roles may subscribe to it; nothing secret is ever sent to an inbox of the STAGEBOX account.
    """
    return Permissions(
        subscribe=("rack.>", TRUST, BEACON, "_INBOX.>"),
        subscribe_deny=("rack.*.req.>",),
    )
