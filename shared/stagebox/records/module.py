"""Module records: what a Wasm module on a rack said on one of its outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor
from stagebox.records.header import close_record, open_record


@dataclass(frozen=True)
class ModuleRecord:
    """``data`` is the map that ``module`` of ``version`` handed out at the insert ``insert`` of its rack.

    ``source`` is the source it is inserted at, empty if it hears all of them; ``start`` the sample index of that
    source at which the block it was given begins, 0 where it is given records. The output's name is in the subject.
    """

    seq: int
    boot: bytes
    time_ns: int
    module: str
    version: str
    insert: str
    source: str
    start: int
    data: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the wire form."""
        fields = {
            "module": self.module,
            "version": self.version,
            "insert": self.insert,
            "source": self.source,
            "start": self.start,
            "data": self.data,
        }
        return close_record(self.seq, self.boot, self.time_ns, {**self.extra, **fields})

    @classmethod
    def decode(cls, data: bytes) -> ModuleRecord:
        """Parse the wire form; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed.
        """
        what = "module record"
        seq, boot, time_ns, fields = open_record(data, what)
        return cls(
            seq=seq,
            boot=boot,
            time_ns=time_ns,
            module=cbor.take(fields, "module", str, what),
            version=cbor.take(fields, "version", str, what),
            insert=cbor.take(fields, "insert", str, what),
            source=cbor.take(fields, "source", str, what),
            start=cbor.take_uint(fields, "start", what),
            data=cbor.expect_map(cbor.take(fields, "data", dict, what), "module record data"),
            extra=fields,
        )
