"""Status records: the heartbeat of a rack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor
from stagebox.records.header import close_record, open_record


@dataclass(frozen=True)
class Status:
    """``state`` is ``running`` or ``stopping``; ``body`` holds versions, sources and counters."""

    seq: int
    boot: bytes
    time_ns: int
    state: str
    body: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the wire form."""
        return close_record(
            self.seq, self.boot, self.time_ns, {**self.extra, "state": self.state, "body": self.body}
        )

    @classmethod
    def decode(cls, data: bytes) -> Status:
        """Parse the wire form; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed.
        """
        what = "status"
        seq, boot, time_ns, fields = open_record(data, what)
        return cls(
            seq=seq,
            boot=boot,
            time_ns=time_ns,
            state=cbor.take(fields, "state", str, what),
            body=cbor.expect_map(cbor.take(fields, "body", dict, what), "status body"),
            extra=fields,
        )
