"""The high-water mark: the last command this rack accepted, kept across restarts. ``commands.cbor``, to the byte:

::

    {"Payload": bytes, "Sum": BLAKE3-256 of Payload}
    Payload = {"Ack": bytes, "After": uint64, "Cluster": text, "Digest": bytes(32), "Rack": text, "Seq": uint64,
               "Version": 1}                                    both deterministic CBOR

``Ack`` is the ack's envelope, empty while the command is under way. ``After`` is when the command was issued (ns, the
mixer's clock): one issued at or before it is refused, whatever its sequence. The sum finds damage; who could forge it
owns the rack. A missing file is a rack that was never commanded; a damaged one is refused, and nothing is believed in
its place but a fresh answer of the mixer. Unknown fields are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagebox import cbor
from stagebox.control.fields import DIGEST_BYTES
from stagebox.errors import DecodeError, StorageError
from stagebox.files import write_atomic
from stagebox_rack import summed
from stagebox_rack.limits import LIMITS

FILE_NAME = "commands.cbor"


@dataclass(frozen=True)
class CommandMark:
    """The last command accepted: its sequence, payload digest and time of issue, and its ack once there is one."""

    cluster: str
    rack: str
    seq: int = 0
    digest: bytes = bytes(DIGEST_BYTES)
    ack: bytes = field(default=b"", repr=False)
    issued_after: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a later release, kept as they are."""

    def encode(self) -> bytes:
        """Return the file's content."""
        return summed.encode(
            {
                **self.extra,
                "Cluster": self.cluster,
                "Rack": self.rack,
                "Seq": self.seq,
                "Digest": self.digest,
                "Ack": self.ack,
                "After": self.issued_after,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> CommandMark:
        """Parse a file's content.

        Raises:
            DecodeError: damaged, or of an unknown version.
        """
        what = "command mark"
        fields = summed.decode(data, what, max_bytes=LIMITS.command_mark_bytes)
        return cls(
            cluster=cbor.take(fields, "Cluster", str, what),
            rack=cbor.take(fields, "Rack", str, what),
            seq=cbor.take_uint(fields, "Seq", what),
            digest=cbor.take_bytes(fields, "Digest", what, length=DIGEST_BYTES),
            ack=cbor.take_bytes(fields, "Ack", what),
            issued_after=cbor.take_uint(fields, "After", what),
            extra=fields,
        )


def load_mark(path: Path, *, cluster: str, rack: str) -> CommandMark:
    """Return the mark of this rack; an empty one if it was never commanded.

    Raises:
        StorageError: the file cannot be read, is damaged, or is another rack's.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return CommandMark(cluster, rack)
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from None
    try:
        mark = CommandMark.decode(data)
    except DecodeError as error:
        raise _unusable(path, error.message) from None
    if (mark.cluster, mark.rack) != (cluster, rack):
        raise _unusable(path, f"it is of rack {mark.rack!r} in cluster {mark.cluster!r}")
    return mark


def save_mark(path: Path, mark: CommandMark) -> None:
    """Make the mark durable.

    Raises:
        StorageError: the disk refused; the mark before stays.
    """
    write_atomic(path, mark.encode())


def _unusable(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"the mark of executed commands {path} cannot be used: {reason}",
        remedy="commands are refused until the mixer has said where it stands, at the next connection",
    )
