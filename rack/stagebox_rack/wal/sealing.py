"""From frozen hot files to sealed segments. Blocking, for a worker thread.

What is done, and in which order, is said in ``lifecycle.py``; this does it. A hot file with damage is kept in
quarantine, and what authenticated in it is still sealed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from nacl.signing import SigningKey

from stagebox.errors import DecodeError, StorageError, VerificationError
from stagebox.records.seal import FILE_ID_BYTES, Seal, seal_hash
from stagebox_rack.wal import hotfile
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.catalogue import Catalogue, SegmentSpan
from stagebox_rack.wal.disk import Disk, unfinished
from stagebox_rack.wal.events import JournalEvent, OnEvent
from stagebox_rack.wal.hotfile import HotSpan
from stagebox_rack.wal.keyring import KEY_BYTES, NONCE_BYTES, Keyring, Random
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.lifecycle import SEALING, Stage, Step, after
from stagebox_rack.wal.segment import SegmentFiles, SegmentIdentity, segment_parquet
from stagebox_rack.wal.segment_key import encode_key, key_context

OnSeal = Callable[[bytes], None]
OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class HotContent:
    """A hot file read back: its header and what its scan proves, up to the span asked for."""

    header: fmt.HotHeader
    scan: fmt.Scan
    frames: tuple[fmt.Frame, ...]


def read_hot(span: HotSpan, keyring: Keyring, *, tail: bool = True) -> HotContent:
    """Read the batches of a hot span; ``tail`` also looks at what lies after its committed end.

    Raises:
        StorageError: it cannot be read.
        DecodeError, VerificationError: its header is damaged or belongs to another key.
    """
    try:
        with span.path.open("rb") as stream:
            data = stream.read() if tail else stream.read(span.end)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"cannot read {span.path.name}: {error.strerror}") from error
    header = fmt.decode_header(data)
    scan = fmt.scan(data, header, header.unwrap(keyring, span.path.name))
    frames = tuple(frame for frame in scan.frames if span.first <= frame.batch.last <= span.last)
    return HotContent(header, scan, frames)


def runs(frames: Sequence[fmt.Frame]) -> list[list[fmt.Frame]]:
    """Split frames where the chain of batches is broken: each run is one segment."""
    result: list[list[fmt.Frame]] = []
    for frame in frames:
        last = result[-1][-1].batch if result else None
        if last is not None and (last.last + 1, last.digest) == (frame.batch.first, frame.batch.previous):
            result[-1].append(frame)
        else:
            result.append([frame])
    return result


def _nothing(_: Step) -> None:
    """Nobody wants to hear of steps."""


class Sealer:
    """Seals for one journal; a second worker waits, then finds nothing left to do.

    ``clock_quality`` says what is known of the clock; ``on_seal`` gets each new seal, ``on_step`` hears of each step
    once it is durable. A hot file of ``hot_file_bytes`` becomes the spare, if there is none.
    """

    def __init__(
        self,
        layout: Layout,
        keyring: Keyring,
        catalogue: Catalogue,
        signing_key: SigningKey,
        *,
        rack: str,
        on_event: OnEvent,
        on_seal: OnSeal,
        clock_quality: Callable[[], str],
        disk: Disk,
        hot_file_bytes: int = 0,
        random: Random = os.urandom,
        on_step: OnStep = _nothing,
    ) -> None:
        self._layout = layout
        self._keyring = keyring
        self._catalogue = catalogue
        self._signing_key = signing_key
        self._rack = rack
        self._on_event = on_event
        self._on_seal = on_seal
        self._clock_quality = clock_quality
        self._disk = disk
        self._hot_file_bytes = hot_file_bytes
        self._random = random
        self._on_step = on_step
        self._lock = threading.Lock()
        # Runs that are committed while the rest of their hot file is not: another attempt goes on after them.
        self._committed: dict[Path, SegmentSpan] = {}

    def rekey(self, signing_key: SigningKey) -> None:
        """Seal with another key from the next segment on."""
        with self._lock:
            self._signing_key = signing_key

    def seal(self, span: HotSpan) -> list[SegmentSpan]:
        """Seal one frozen hot file and remove it.

        Raises:
            StorageError: the disk refused; the hot file stays and is still readable.
        """
        with self._lock:
            if span not in self._catalogue.frozen():
                return []
            try:
                return self._seal(span)
            except OSError as error:
                raise StorageError(
                    f"cannot seal {span.path.name}: {error.strerror or error}",
                    remedy=f"free space in {self._layout.segments}; the hot file is kept and sealing is tried again",
                ) from error

    def save(self, content: HotContent, previous_seal: bytes) -> list[SegmentSpan]:
        """Seal what a hot file proves, run by run. The file stays, the catalogue learns nothing; for one thread.

        Raises:
            OSError: the disk refused.
        """
        segments: list[SegmentSpan] = []
        for run in runs(content.frames):
            segments.append(self._seal_run(run, content, previous_seal))
            previous_seal = segments[-1].seal_hash
        self._committed.clear()
        return segments

    def _seal(self, span: HotSpan) -> list[SegmentSpan]:
        try:
            content = read_hot(span, self._keyring)
        except (DecodeError, VerificationError) as error:
            self._quarantine(span.path, span.first, span.last, error.message)
            self._catalogue.sealed(span, [])
            return []
        segments = self.save(content, self._catalogue.last_seal())
        self._catalogue.sealed(span, segments)
        batches = [frame.batch for frame in content.frames]
        lost = span.last - span.first + 1 - sum(b.last - b.first + 1 for b in batches)
        if content.scan.damage or lost:
            reason = "; ".join(d.reason for d in content.scan.damage) or f"{lost} records are missing"
            self._quarantine(span.path, span.first, span.last, reason)
        else:
            hotfile.recycle(self._layout, span.path, self._hot_file_bytes, self._disk)
            self._on_step(Step.REMOVE_HOT)
        for segment in segments:
            detail = {"first": segment.first, "last": segment.last, "bytes": segment.size}
            self._on_event(JournalEvent("wal_sealed", "info", detail))
        return segments

    def _seal_run(self, run: Sequence[fmt.Frame], content: HotContent, previous_seal: bytes) -> SegmentSpan:
        batches = [frame.batch for frame in run]
        first, last = batches[0].first, batches[-1].last
        stem = self._layout.segment_stem(first, last)
        if stem in self._committed:
            return self._committed[stem]
        paths = SegmentFiles.of(stem)
        if paths.seal.exists():
            # An attempt failed after its seal had its name: it must not come back beside another attempt's key.
            self._disk.remove(paths.seal)
        dek, file_id = self._random(KEY_BYTES), self._random(FILE_ID_BYTES)
        keyring, boot = self._keyring, content.header.boot
        identity = SegmentIdentity(self._rack, keyring.journal, keyring.version, file_id, boot)
        parquet = segment_parquet(batches, dek, identity)
        wrapped = keyring.wrap(dek, key_context(self._rack, first, last, file_id), self._random(NONCE_BYTES))
        seal = self._signed(run, content, previous_seal, file_id, parquet)
        self._perform(
            Stage.FROZEN,
            SEALING,
            {
                Step.WRITE_PARQUET: lambda: self._disk.write_file(unfinished(paths.parquet), parquet),
                Step.NAME_PARQUET: lambda: self._name(paths.parquet),
                Step.WRITE_KEY: lambda: self._disk.put(paths.key, encode_key(keyring, wrapped)),
                Step.WRITE_SEAL: lambda: self._disk.write_file(unfinished(paths.seal), seal),
                Step.NAME_SEAL: lambda: self._name(paths.seal),
            },
        )
        self._on_seal(seal)
        self._committed[stem] = SegmentSpan(
            stem,
            first,
            last,
            batches[0].previous,
            batches[-1].digest,
            len(parquet),
            time.time(),
            seal_hash(seal),
        )
        return self._committed[stem]

    def _signed(
        self,
        run: Sequence[fmt.Frame],
        content: HotContent,
        previous_seal: bytes,
        file_id: bytes,
        parquet: bytes,
    ) -> bytes:
        first, last = run[0].batch, run[-1].batch
        return Seal(
            rack=self._rack,
            journal=self._keyring.journal,
            first=first.first,
            last=last.last,
            count=last.last - first.first + 1,
            batches=len(run),
            previous=first.previous,
            head=last.digest,
            file_id=file_id,
            file_blake3=blake3(parquet).digest(),
            file_bytes=len(parquet),
            torn_bytes=content.scan.torn_bytes,
            boots=(content.header.boot,),
            chain=run[-1].chain_after,
            previous_seal=previous_seal,
            clock=self._clock_quality(),
        ).sign(self._signing_key)

    def _perform(
        self, stage: Stage, steps: Sequence[Step], actions: Mapping[Step, Callable[[], None]]
    ) -> None:
        for step in steps:
            stage = after(stage, step)
            actions[step]()
            self._on_step(step)

    def _name(self, path: Path) -> None:
        self._disk.rename(unfinished(path), path)
        self._disk.sync_dir(path.parent)

    def _quarantine(self, path: Path, first: int, last: int, reason: str) -> None:
        target = self._layout.to_quarantine(path, self._disk)
        detail = {"file": target.name, "first": first, "last": last, "reason": reason}
        self._on_event(JournalEvent("wal_damaged", "alert", detail))
