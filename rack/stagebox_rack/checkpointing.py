"""Collects the digests of live records into checkpoints. Pure: time and key come in, signed bytes go out.

Every record made is listed, also one the bus could not take, so the journal's copy is proved too. Sequences of
one subject are consecutive within a boot; a full checkpoint (of digests, or of subjects) is cut early rather than
growing without bound.
"""

from __future__ import annotations

from collections.abc import Sequence

from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.limits import LIMITS
from stagebox.records.checkpoint import FIRST_PREVIOUS, Checkpoint, StreamDigests, payload_hash
from stagebox.records.digest import record_digest


class CheckpointBuilder:
    """The checkpoints of one boot of one rack. ``chain`` is DER, leaf first."""

    def __init__(
        self, *, rack: str, boot: bytes, chain: Sequence[bytes], key: SigningKey, max_digests: int
    ) -> None:
        self._rack = rack
        self._boot = boot
        self._chain = tuple(chain)
        self._key = key
        self._max_digests = max_digests
        self._seq = 0
        self._previous = FIRST_PREVIOUS
        self._open: dict[str, tuple[int, list[bytes]]] = {}
        self._count = 0
        self._from_ns = 0

    @property
    def full(self) -> bool:
        """Whether the open checkpoint must be signed before more is added."""
        return self._count >= self._max_digests or len(self._open) >= LIMITS.max_streams_per_checkpoint

    def rebind(self, *, chain: Sequence[bytes], key: SigningKey) -> None:
        """Sign with another certificate, and key, from the next checkpoint on; the chain of checkpoints goes on."""
        self._chain = tuple(chain)
        self._key = key

    def add(self, subject: str, seq: int, payload: bytes, now_ns: int) -> None:
        """List one record."""
        if not self._count:
            self._from_ns = now_ns
        first, digests = self._open.setdefault(subject, (seq, []))
        if seq != first + len(digests):
            raise ValueError(f"record {seq} of {subject} does not follow {first + len(digests) - 1}")
        digests.append(record_digest(subject, payload))
        self._count += 1

    def sign(self, now_ns: int) -> bytes | None:
        """Return the signed checkpoint of what was added since the last one, None if there is nothing."""
        if not self._count:
            return None
        self._seq += 1
        payload = Checkpoint(
            rack=self._rack,
            boot=self._boot,
            seq=self._seq,
            previous=self._previous,
            from_ns=self._from_ns,
            to_ns=now_ns,
            streams={s: StreamDigests(first, tuple(digests)) for s, (first, digests) in self._open.items()},
            chain=self._chain,
        ).encode()
        self._previous = payload_hash(payload)
        self._open.clear()
        self._count = 0
        return envelope.seal(envelope.DOMAIN_CHECKPOINT, payload, self._key)
