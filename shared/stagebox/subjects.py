"""Subjects of the bus: how they are built, parsed and who may use which.

The table of subjects is docs/reference/subjects.md; this module is its only code.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

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
    MODULE = "module"


class UnknownKindError(InputError):
    """A well-formed subject of a rack, of a kind that this software does not know: a later release's."""


# How many tokens follow the kind, and what they name.
_LEAVES: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.METER: ("source",),
    Kind.AUDIO: ("bus",),
    Kind.REQUEST: ("verb",),
    Kind.MODULE: ("module", "output"),
}


@dataclass(frozen=True)
class Subject:
    """A parsed ``rack.<rack>.<kind>[.<leaf>[.<out>]]``; ``out`` is which output of the module ``leaf``."""

    rack: str
    kind: Kind
    leaf: str | None = None
    out: str | None = None

    def __str__(self) -> str:
        return of_rack(self.rack, self.kind, self.leaf, self.out)


def of_rack(rack: str, kind: Kind, leaf: str | None = None, out: str | None = None) -> str:
    """Return the subject ``rack.<rack>.<kind>[.<leaf>[.<out>]]``.

    Raises:
        InputError: an illegal name, or a leaf where none belongs.
    """
    leaves = [token for token in (leaf, out) if token is not None]
    if leaf is None and out is not None:
        raise InputError(f"a subject names the output {out!r}, but no module")
    _check(rack, kind, leaves)
    return ".".join(("rack", rack, kind.value, *leaves))


def _check(rack: str, kind: Kind, leaves: Sequence[str]) -> None:
    check_name("rack", rack)
    wanted = _LEAVES.get(kind, ())
    if len(leaves) != len(wanted):
        after = " and ".join(f"the name of its {what}" for what in wanted) or "nothing"
        raise InputError(f"subject kind {kind.value!r} is followed by {after}")
    for what, token in zip(wanted, leaves, strict=True):
        check_name(what, token)


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


def module(rack: str, name: str, out: str) -> str:
    """What the module ``name`` says on its output ``out``."""
    return of_rack(rack, Kind.MODULE, name, out)


def command(rack: str) -> str:
    """Signed commands to one rack."""
    return f"mixer.cmd.{check_name('rack', rack)}"


def parse(subject: str) -> Subject:
    """Parse a concrete rack subject.

    Raises:
        UnknownKindError: a rack's subject of a kind of a later release.
        InputError: not a subject of the table.
    """
    first, *tokens = subject.split(".")
    if first != "rack" or len(tokens) < 2:
        raise InputError(f"{subject!r} is not a rack subject")
    rack, name, *leaves = tokens
    try:
        kind = Kind(name)
    except ValueError:
        check_name("rack", rack)
        check_name("subject kind", name)
        raise UnknownKindError(f"{subject!r} has an unknown kind {name!r}") from None
    _check(rack, kind, leaves)
    return Subject(rack, kind, *leaves)


ALL_REQUESTS = "rack.*.req.*"
ALL_ACKS = "rack.*.ack"
ALL_STATUSES = "rack.*.status"
ALL_ALERTS = "rack.*.alert"
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
