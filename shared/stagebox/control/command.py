"""Commands to a rack, signed by the cluster authority, and the rack's signed acks."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.control.fields import DIGEST_BYTES, close_payload, open_payload, take_map
from stagebox.errors import DecodeError
from stagebox.records.header import BOOT_BYTES


class CommandVerb(enum.StrEnum):
    """What a rack can be told."""

    PASSPORT = "passport"
    """Take this reissued passport (args: ``Passport`` bytes): suspend, activate, approve, rotate the secret."""
    STATUS = "status"
    """Publish a status now (no args)."""
    LISTEN = "listen"
    """Send a monitor bus while a lease on it lives (args: see :mod:`stagebox.control.listen`)."""
    RESET_METERS = "reset-meters"
    """Start integrated loudness, range and maxima again (args: see :mod:`stagebox.control.listen`)."""
    PATCH = "patch"
    """Run what this patch sheet says, and nothing else (args: ``Sheet`` bytes)."""


@dataclass(frozen=True)
class Command:
    """``seq`` counts the commands to this rack, from 1, never repeated; times are ns since the Unix epoch."""

    cluster: str
    rack: str
    seq: int
    issued: int
    expires: int
    verb: str
    args: dict[str, Any] = field(default_factory=dict, repr=False)
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the deterministic CBOR payload."""
        return close_payload(
            self.extra,
            {
                "Cluster": self.cluster,
                "Rack": self.rack,
                "Seq": self.seq,
                "Issued": self.issued,
                "Expires": self.expires,
                "Verb": self.verb,
                "Args": self.args,
            },
        )

    @classmethod
    def decode(cls, payload: bytes) -> Command:
        """Parse a payload; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed.
        """
        what = "command"
        fields = open_payload(payload, what)
        return cls(
            cluster=cbor.take(fields, "Cluster", str, what),
            rack=cbor.take(fields, "Rack", str, what),
            seq=cbor.take_uint(fields, "Seq", what),
            issued=cbor.take_uint(fields, "Issued", what),
            expires=cbor.take_uint(fields, "Expires", what),
            verb=cbor.take(fields, "Verb", str, what),
            args=take_map(fields, "Args", what),
            extra=fields,
        )


def open_command(data: bytes, cluster_public: bytes) -> tuple[Command, bytes]:
    """Verify a command's signature and return it with its payload; the caller judges rack, sequence and time.

    Raises:
        DecodeError: malformed. VerificationError: not signed by the cluster as a command.
    """
    payload = envelope.open_envelope(envelope.DOMAIN_COMMAND, data, cluster_public)
    return Command.decode(payload), payload


class AckResult(enum.StrEnum):
    """What became of a command."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Ack:
    """A rack's answer to one command; ``command`` is the digest of the command's payload.

    ``reason`` is empty when done, else a code such as ``old_sequence``, ``expired``, ``unknown_verb``.
    """

    cluster: str
    rack: str
    seq: int
    command: bytes
    boot: bytes
    time_ns: int
    result: AckResult
    reason: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the deterministic CBOR payload."""
        return close_payload(
            self.extra,
            {
                "Cluster": self.cluster,
                "Rack": self.rack,
                "Seq": self.seq,
                "Command": self.command,
                "Boot": self.boot,
                "Time": self.time_ns,
                "Result": self.result.value,
                "Reason": self.reason,
            },
        )

    @classmethod
    def decode(cls, payload: bytes) -> Ack:
        """Parse a payload; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed.
        """
        what = "ack"
        fields = open_payload(payload, what)
        result = cbor.take(fields, "Result", str, what)
        if result not in set(AckResult):
            raise DecodeError(f"ack has an unknown Result {result!r}")
        return cls(
            cluster=cbor.take(fields, "Cluster", str, what),
            rack=cbor.take(fields, "Rack", str, what),
            seq=cbor.take_uint(fields, "Seq", what),
            command=cbor.take_bytes(fields, "Command", what, length=DIGEST_BYTES),
            boot=cbor.take_bytes(fields, "Boot", what, length=BOOT_BYTES),
            time_ns=cbor.take_uint(fields, "Time", what),
            result=AckResult(result),
            reason=cbor.take(fields, "Reason", str, what),
            extra=fields,
        )

    def seal(self, key: SigningKey) -> bytes:
        """Return the wire form, signed by the rack's identity key."""
        return envelope.seal(envelope.DOMAIN_ACK, self.encode(), key)


def open_ack(data: bytes, rack_public: bytes) -> Ack:
    """Verify an ack.

    Raises:
        DecodeError: malformed. VerificationError: not signed by this key as an ack.
    """
    return Ack.decode(envelope.open_envelope(envelope.DOMAIN_ACK, data, rack_public))
