"""What a telemetry module is given on a desk: an export of a rack's journal, or frames measured from audio here."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stagebox import subjects
from stagebox.errors import InputError
from stagebox.subjects import Kind
from stagebox_rack.audio.measurement import MeterMeasurement
from stagebox_rack.desk.audio_input import AudioInput
from stagebox_rack.desk.limits import LIMITS
from stagebox_rack.meter_frames import encode_frame
from stagebox_rack.metering.layout import MeterLayout, Programme, programme_weights
from stagebox_rack.metering.levels import Float32
from stagebox_rack.metering.meter import Meter

_KINDS = (Kind.METER, Kind.EVENT, Kind.ALERT)
_RACK, _SOURCE = "desk", "main"
_NS = 1_000_000_000
_REMEDY = "make one with `stagebox rack wal export --out records.jsonl`"


@dataclass(frozen=True)
class RecordItem:
    """One record as it is on the wire."""

    kind: Kind
    subject: str
    data: bytes


class RecordInput(Protocol):
    """Records to run a module on; ``what`` says what they are, ``seconds`` over how long they came."""

    what: str
    count: int
    seconds: float

    def records(self) -> Iterator[RecordItem]:
        """Yield the records in order."""
        ...


class ExportedRecords:
    """What `stagebox rack wal export` wrote, as JSON lines or Parquet. Kinds no module is given are left out."""

    def __init__(self, path: Path) -> None:
        """Read the file once, to count and judge it.

        Raises:
            InputError: it cannot be read, is no such export, or holds nothing that a module is given.
        """
        self._path = path
        self.count, first, last = 0, 0, 0
        for at, _ in self._rows():
            first, last = (at if not self.count else first), at
            self.count += 1
        if not self.count:
            raise InputError(f"{path} holds no meter frame, event or alert", remedy=_REMEDY)
        self.seconds = max(0.0, (last - first) / _NS)
        self.what = f"{path}: {self.count} meter frames, events and alerts over {self.seconds:.1f} s"

    def records(self) -> Iterator[RecordItem]:
        """Yield the records in the file's order."""
        for _, item in self._rows():
            yield item

    def _rows(self) -> Iterator[tuple[int, RecordItem]]:
        rows = _parquet(self._path) if self._path.suffix == ".parquet" else _json_lines(self._path)
        for kind, time_ns, subject, data in rows:
            if kind in _KINDS:
                yield time_ns, RecordItem(Kind(kind), subject, data)


def _json_lines(path: Path) -> Iterator[tuple[str, int, str, bytes]]:
    number = 0
    try:
        with path.open("rb") as stream:
            while line := stream.readline(LIMITS.record_line_bytes):
                number += 1
                row: dict[str, Any] = json.loads(line)
                data = base64.b64decode(row["data"], validate=True)
                yield str(row["kind"]), int(row["time_ns"]), str(row["subject"]), data
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", remedy=_REMEDY) from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"line {number} of {path} is no record of a journal", remedy=_REMEDY) from None


def _parquet(path: Path) -> Iterator[tuple[str, int, str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["kind", "time", "subject", "data"]):
                times = batch.column("time").cast(pa.int64()).to_pylist()
                kinds, subjects_, data = (
                    batch.column(name).to_pylist() for name in ("kind", "subject", "data")
                )
                yield from zip(kinds, times, subjects_, data, strict=True)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no export of a journal: {reason}", remedy=_REMEDY) from None


class MeasuredAudio:
    """Meter frames that the rack's own meters make of audio, as of source ``main`` of a rack ``desk``."""

    def __init__(self, audio: AudioInput) -> None:
        self._audio = audio
        self._layout = MeterLayout(
            audio.rate,
            audio.channels,
            (Programme("all", tuple(range(audio.channels)), programme_weights(audio.channels)),),
        )
        self.seconds = audio.frames / audio.rate
        self.count = int(self.seconds * self._layout.frames_per_second)
        self.what = f"meter frames measured here, {self._layout.frames_per_second} a second, of {audio.what}"

    def records(self) -> Iterator[RecordItem]:
        """Yield the frames; audio that does not fill the last one is left out."""
        meter, rate = Meter(self._layout), self._audio.rate
        subject = subjects.meter(_RACK, _SOURCE)
        boot, start_ns = bytes(16), time.time_ns()
        seq = start = 0
        waiting: list[Float32] = []
        held = 0
        for block in self._audio.blocks():
            waiting.append(block)
            held += len(block)
            while held >= meter.next_frame_size:
                size = meter.next_frame_size
                joined = np.concatenate(waiting)
                waiting, held = [joined[size:]], held - size
                measured = MeterMeasurement(
                    source=_SOURCE,
                    start=start,
                    frames=size,
                    rate=rate,
                    time_ns=start_ns + (start + size) * _NS // rate,
                    levels=meter.measure(joined[:size]),
                    flags=bytes(self._audio.channels),
                )
                yield RecordItem(Kind.METER, subject, encode_frame(measured, seq=seq, boot=boot))
                seq, start = seq + 1, start + size
