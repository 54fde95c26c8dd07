"""Events and alerts: what happened on a rack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor
from stagebox.records.header import close_record, open_record


@dataclass(frozen=True)
class Event:
    """``name`` is a snake_case word such as ``capture_gap``; ``detail`` its facts."""

    seq: int
    boot: bytes
    time_ns: int
    name: str
    detail: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the wire form."""
        return close_record(
            self.seq, self.boot, self.time_ns, {**self.extra, "event": self.name, "detail": self.detail}
        )

    @classmethod
    def decode(cls, data: bytes) -> Event:
        """Parse the wire form; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed.
        """
        what = "event"
        seq, boot, time_ns, fields = open_record(data, what)
        return cls(
            seq=seq,
            boot=boot,
            time_ns=time_ns,
            name=cbor.take(fields, "event", str, what),
            detail=cbor.expect_map(cbor.take(fields, "detail", dict, what), "event detail"),
            extra=fields,
        )
