"""What is stored of the bans at the mixer: the signed deny list, and beside it why and by whom. Pure.

The list itself is signed and travels; the notes stay here, because a rack need not know why another was banned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor
from stagebox.control.denylist import Denied, DenyList
from stagebox.errors import DecodeError, InputError
from stagebox_mixer.limits import LIMITS

VERSION = 1


@dataclass(frozen=True)
class Note:
    """Why somebody was banned, by whom and when (ns since the Unix epoch)."""

    reason: str
    actor: str
    at: int

    def fields(self) -> dict[str, Any]:
        """Return the stored form."""
        return {"reason": self.reason, "actor": self.actor, "at": self.at}

    @classmethod
    def from_fields(cls, raw: object, what: str) -> Note:
        """Parse the stored form.

        Raises:
            DecodeError: malformed.
        """
        fields = cbor.expect_map(raw, what)
        return cls(
            reason=cbor.take(fields, "reason", str, what),
            actor=cbor.take(fields, "actor", str, what),
            at=cbor.take_uint(fields, "at", what),
        )


@dataclass(frozen=True)
class Record:
    """The stored value: ``signed`` is the deny list's envelope; the rest is by :func:`note_key`.

    ``cleared`` says when bans were lifted (ns), so that a rack's older copy does not bring them back.
    """

    signed: bytes
    notes: Mapping[str, Note] = field(default_factory=dict)
    cleared: Mapping[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the stored form.

        Raises:
            InputError: it would be longer than one message of the bus.
        """
        data = cbor.encode(
            {
                **self.extra,
                "v": VERSION,
                "list": self.signed,
                "notes": {key: note.fields() for key, note in self.notes.items()},
                "cleared": dict(self.cleared),
            }
        )
        if len(data) > LIMITS.denied_record_bytes:
            raise InputError(
                f"the deny list takes {len(data)} bytes with its reasons and is full",
                remedy="clear bans of racks that were removed: stagebox admin racks denied",
            )
        return data

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Parse the stored form; the list inside is not yet verified.

        Raises:
            DecodeError: malformed or of an unknown version.
        """
        what = "deny record"
        fields = cbor.expect_map(cbor.decode(data, max_bytes=LIMITS.denied_record_bytes), what)
        version = cbor.take_uint(fields, "v", what)
        if version != VERSION:
            raise DecodeError(f"{what} has version {version}, this mixer understands {VERSION}")
        signed = cbor.take_bytes(fields, "list", what)
        notes = cbor.expect_map(cbor.take(fields, "notes", dict, what), what)
        at = cbor.expect_map(cbor.take(fields, "cleared", dict, what), what)
        return cls(
            signed,
            {key: Note.from_fields(raw, what) for key, raw in notes.items()},
            {key: cbor.take_uint(at, key, what) for key in list(at)},
            fields,
        )


def note_key(entry: Denied) -> str:
    """Return the key of a ban's note, which is also how the audit names it: ``<kind>:<value>``."""
    return f"{entry.kind.value}:{entry.value}"


def cleared_after(
    cleared: Mapping[str, int], before: DenyList, after: DenyList, *, limit: int = LIMITS.denied_cleared
) -> dict[str, int]:
    """Return what is known to be lifted once ``after`` replaces ``before``; the oldest beyond ``limit`` goes."""
    held = {note_key(entry) for entry in after.entries}
    lifted = {note_key(entry): after.time_ns for entry in before.entries}
    known = {key: at for key, at in {**cleared, **lifted}.items() if key not in held}
    newest = sorted(known, key=lambda key: known[key])[-limit:]
    return {key: known[key] for key in newest}


def check_reason(reason: str) -> str:
    """Return ``reason`` if it is one short printable line.

    Raises:
        InputError: it is not.
    """
    if len(reason) > LIMITS.deny_reason_chars or not reason.isprintable():
        raise InputError(
            "the reason is not one line of printable text",
            remedy=f"say it in at most {LIMITS.deny_reason_chars} characters",
        )
    return reason
