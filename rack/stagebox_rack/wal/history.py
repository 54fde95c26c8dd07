"""What an open journal has committed, read back in order: the newest from memory, the rest from hot files and segments.

Rules: nothing is handed out that is not durable. Every file is verified as it is read. One that is sealed or evicted
meanwhile is looked up again. Belongs to one event loop; disks are read on worker threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from stagebox.errors import StorageError
from stagebox_rack.wal.catalogue import Catalogue, Span
from stagebox_rack.wal.hotfile import HotSpan
from stagebox_rack.wal.journal_format import CommittedBatch
from stagebox_rack.wal.opening import Opened
from stagebox_rack.wal.owner import Owner
from stagebox_rack.wal.progress import Progress
from stagebox_rack.wal.sealing import read_hot
from stagebox_rack.wal.segment import read_segment
from stagebox_rack.wal.tail import Tail


class History:
    """One open journal's; ``tail_bytes`` of the newest batches are held in memory."""

    def __init__(
        self, opened: Opened, owner: Owner, catalogue: Catalogue, progress: Progress, *, tail_bytes: int
    ) -> None:
        self._layout, self._keyring = opened.layout, opened.keyring
        self._public, self._earlier = owner.public, owner.earlier
        self._catalogue = catalogue
        self._progress = progress
        self._tail = Tail(tail_bytes)

    def add(self, batch: CommittedBatch) -> None:
        """Here is the newest batch; it is handed out once it is said to be committed."""
        self._tail.add(batch)

    def rekey(self, public: bytes) -> None:
        """From now on files are signed with another key; what was signed before stays readable."""
        # In this order: a thread that reads meanwhile knows the key before.
        self._earlier = (*self._earlier, self._public)
        self._public = public

    async def batches_after(self, sequence: int) -> AsyncGenerator[CommittedBatch, None]:
        """Yield committed batches in order, from the one that holds ``sequence + 1``, up to the newest.

        Raises:
            StorageError: a file cannot be read.
            VerificationError: a file does not verify.
        """
        while True:
            if sequence >= self._progress.committed:
                return  # what is durable and not yet announced comes with its announcement
            batch = self._tail.after(sequence)
            if batch is not None:
                yield batch
                sequence = batch.last
                continue
            span = self._catalogue.after(sequence)
            if span is None:
                return
            try:
                batches = await asyncio.to_thread(self._read_span, span)
            except FileNotFoundError:
                # Sealed or evicted between the look-up and the read: look again.
                if self._catalogue.after(sequence) == span:
                    raise StorageError(
                        f"records {span.first}-{span.last} are gone from {self._layout.root}"
                    ) from None
                continue
            for batch in batches:
                if batch.last > self._progress.committed:
                    return
                if batch.last > sequence:
                    yield batch
            sequence = max(sequence, span.last)

    def _read_span(self, span: Span) -> list[CommittedBatch]:
        if isinstance(span, HotSpan):
            return [frame.batch for frame in read_hot(span, self._keyring, tail=False).frames]
        if not span.stem.with_name(span.stem.name + ".seal").exists():
            raise FileNotFoundError(span.stem)
        return read_segment(span.stem, self._keyring, self._public, self._earlier)
