"""Audio packets: one Opus packet of one monitor bus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor
from stagebox.records.header import close_record, open_record


@dataclass(frozen=True)
class AudioPacket:
    """``frames`` samples of ``channels`` channels from sample index ``start`` of the bus, encoded.

    ``time_ns`` is the capture time of the packet's last sample; ``rate`` and ``start`` are in the codec's
    clock (48 kHz for Opus).
    """

    seq: int
    boot: bytes
    time_ns: int
    start: int
    frames: int
    rate: int
    channels: int
    data: bytes
    codec: str = "opus"
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the wire form."""
        return close_record(
            self.seq,
            self.boot,
            self.time_ns,
            {
                **self.extra,
                "start": self.start,
                "n": self.frames,
                "rate": self.rate,
                "ch": self.channels,
                "codec": self.codec,
                "data": self.data,
            },
        )

    @classmethod
    def decode(cls, data: bytes) -> AudioPacket:
        """Parse the wire form; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed.
        """
        what = "audio packet"
        seq, boot, time_ns, fields = open_record(data, what)
        return cls(
            seq=seq,
            boot=boot,
            time_ns=time_ns,
            start=cbor.take_uint(fields, "start", what),
            frames=cbor.take_uint(fields, "n", what, bits=32),
            rate=cbor.take_uint(fields, "rate", what, bits=32),
            channels=cbor.take_uint(fields, "ch", what, bits=8),
            data=cbor.take_bytes(fields, "data", what),
            codec=cbor.take(fields, "codec", str, what),
            extra=fields,
        )
