"""Checkpoints: what a rack signs about once a second to prove the live records it published.

A checkpoint lists, per subject, the digests of consecutive records since the last checkpoint, names the hash
of the checkpoint before it, and carries the rack's certificate chain, so that a subscriber who trusts the
cluster's root CA needs nothing else to prove any record it received.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3
from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS
from stagebox.records.digest import DIGEST_BYTES
from stagebox.records.header import BOOT_BYTES, VERSION

FIRST_PREVIOUS = bytes(32)


@dataclass(frozen=True)
class StreamDigests:
    """The digests of records ``first_seq``, ``first_seq`` + 1, … of one subject."""

    first_seq: int
    digests: tuple[bytes, ...]


@dataclass(frozen=True)
class Checkpoint:
    """The payload of a checkpoint. ``chain`` is DER, leaf first; ``streams`` maps subject to digests.

    ``seq`` counts from 1 within a boot; ``previous`` is BLAKE3-256 of the payload before it, 32 zero bytes
    for the first of a boot.
    """

    rack: str
    boot: bytes
    seq: int
    previous: bytes
    from_ns: int
    to_ns: int
    streams: dict[str, StreamDigests]
    chain: tuple[bytes, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the deterministic CBOR payload."""
        return cbor.encode(
            {
                **self.extra,
                "Version": VERSION,
                "Rack": self.rack,
                "Boot": self.boot,
                "Seq": self.seq,
                "Prev": self.previous,
                "From": self.from_ns,
                "To": self.to_ns,
                "Streams": {
                    subject: {"First": entry.first_seq, "Digests": b"".join(entry.digests)}
                    for subject, entry in self.streams.items()
                },
                "Chain": list(self.chain),
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> Checkpoint:
        """Parse a payload; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed or over a limit.
        """
        what = "checkpoint"
        fields = cbor.expect_map(cbor.decode(payload, max_bytes=LIMITS.max_checkpoint_bytes), what)
        version = cbor.take_uint(fields, "Version", what)
        if version != VERSION:
            raise DecodeError(f"{what} has version {version}, this software understands {VERSION}")
        chain = cbor.take(fields, "Chain", list, what)
        if not all(type(der) is bytes for der in chain) or len(chain) > LIMITS.max_chain_certificates:
            raise DecodeError(f"{what} field 'Chain' is not a short list of byte strings")
        return cls(
            rack=cbor.take(fields, "Rack", str, what),
            boot=cbor.take_bytes(fields, "Boot", what, length=BOOT_BYTES),
            seq=cbor.take_uint(fields, "Seq", what),
            previous=cbor.take_bytes(fields, "Prev", what, length=32),
            from_ns=cbor.take_uint(fields, "From", what),
            to_ns=cbor.take_uint(fields, "To", what),
            streams=_streams(cbor.take(fields, "Streams", dict, what)),
            chain=tuple(chain),
            extra=fields,
        )

    def sign(self, key: SigningKey) -> bytes:
        """Return the wire form: the payload in an envelope signed by the rack's identity key."""
        return envelope.seal(envelope.DOMAIN_CHECKPOINT, self.encode(), key)


def payload_hash(payload: bytes) -> bytes:
    """Return what the next checkpoint names as ``Prev``."""
    return blake3(payload).digest()


def _streams(raw: dict[Any, Any]) -> dict[str, StreamDigests]:
    streams: dict[str, StreamDigests] = {}
    if len(raw) > LIMITS.max_streams_per_checkpoint:
        raise DecodeError(f"checkpoint lists {len(raw)} streams")
    for subject, value in cbor.expect_map(raw, "checkpoint streams").items():
        entry = cbor.expect_map(value, "checkpoint stream")
        joined = cbor.take_bytes(entry, "Digests", "checkpoint stream")
        count, rest = divmod(len(joined), DIGEST_BYTES)
        if rest or not 1 <= count <= LIMITS.max_digests_per_stream:
            raise DecodeError(f"checkpoint stream {subject!r} has {len(joined)} bytes of digests")
        digests = tuple(joined[i : i + DIGEST_BYTES] for i in range(0, len(joined), DIGEST_BYTES))
        streams[subject] = StreamDigests(cbor.take_uint(entry, "First", "checkpoint stream"), digests)
    return streams
