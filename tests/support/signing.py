"""A rack as far as verification is concerned: publishes numbered records and signs checkpoints over them."""

from __future__ import annotations

import uuid
from collections import defaultdict

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from nacl.signing import SigningKey

from stagebox.records.checkpoint import FIRST_PREVIOUS, Checkpoint, StreamDigests, payload_hash
from stagebox.records.digest import record_digest
from support.frames import meter_frame
from support.natsd import Authority


class SigningRack:
    """Makes meter frames on ``rack.<name>.meter.<source>`` and the checkpoints that prove them."""

    def __init__(self, authority: Authority, name: str = "stage-left", *, days: int = 10) -> None:
        self.name = name
        private = Ed25519PrivateKey.generate()
        uri = f"spiffe://flux/tenant/default/rack/{name}"
        self.issued = authority.issue(name, uri=uri, key=private, days=days)
        self.key = SigningKey(private.private_bytes_raw())
        self.boot = uuid.uuid4().bytes
        self.chain = (self.issued.certificate.public_bytes(Encoding.DER),)
        self.seq = 0
        self.previous = FIRST_PREVIOUS
        self._next: dict[str, int] = defaultdict(lambda: 1)
        self._since: dict[str, list[tuple[int, bytes]]] = {}

    def reboot(self) -> None:
        """Start a new boot: numbers and the chain start over."""
        self.boot, self.seq, self.previous = uuid.uuid4().bytes, 0, FIRST_PREVIOUS
        self._next.clear()
        self._since.clear()

    @property
    def checkpoint_subject(self) -> str:
        """Where checkpoints go."""
        return f"rack.{self.name}.checkpoint"

    def frame(self, seq: int, peak: float = -20.0) -> bytes:
        """Encode a frame with a number of the caller's, for which nothing is noted."""
        return meter_frame(
            seq, self.boot, time_ns=1_000 + seq, start=seq * 960, frames=960, peak=peak, momentary=peak
        ).encode()

    def meter(self, source: str = "main", peak: float = -20.0) -> tuple[str, bytes]:
        """Return the next record of a source; the next checkpoint will list it."""
        subject = f"rack.{self.name}.meter.{source}"
        payload = self.frame(self._next[subject], peak)
        self.note(subject, payload)
        return subject, payload

    def note(self, subject: str, payload: bytes) -> None:
        """Have the next checkpoint list a record of the caller's as the next one of its subject."""
        seq = self._next[subject]
        self._next[subject] = seq + 1
        self._since.setdefault(subject, []).append((seq, record_digest(subject, payload)))

    def checkpoint(
        self, *, streams: dict[str, StreamDigests] | None = None, key: SigningKey | None = None
    ) -> bytes:
        """Sign a checkpoint over everything since the last one (or over ``streams``) and advance the chain."""
        if streams is None:
            streams = {
                subject: StreamDigests(entries[0][0], tuple(digest for _, digest in entries))
                for subject, entries in self._since.items()
            }
        self._since = {}
        self.seq += 1
        checkpoint = Checkpoint(self.name, self.boot, self.seq, self.previous, 1, 2, streams, self.chain)
        self.previous = payload_hash(checkpoint.encode())
        return checkpoint.sign(key or self.key)
