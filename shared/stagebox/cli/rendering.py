"""One record of the bus as a line for a person or as a JSON object for a program. Pure."""

from __future__ import annotations

import dataclasses
import json
import math
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stagebox.control.command import Ack
from stagebox.logs import printable
from stagebox.records.audio import AudioPacket
from stagebox.records.checkpoint import Checkpoint
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame
from stagebox.records.module import ModuleRecord
from stagebox.records.status import Status
from stagebox.records.walbatch import WalBatch

if TYPE_CHECKING:
    from stagebox.subscriber import Record

_CHANNELS_SHOWN = 8
_MAX_DEPTH = 16


def as_json(record: Record) -> str:
    """Return the record as one line of JSON; bytes become hexadecimal, values that are no number null."""
    value = record.value
    document = {
        "subject": record.subject,
        "rack": record.rack,
        "kind": record.kind.value,
        "leaf": record.leaf,
        "out": record.out,
        "received_ns": record.received_ns,
        "verification": record.verification.value,
        "reason": record.reason or None,
        "value": record.payload.hex() if value is None else _plain(value),
    }
    return json.dumps(document, ensure_ascii=True, allow_nan=False)


def as_line(record: Record) -> str:
    """Return the record as one line of text without control characters."""
    at = datetime.fromtimestamp(record.received_ns // 1_000_000_000, UTC)
    clock = f"{at:%H:%M:%S}.{record.received_ns // 1_000_000 % 1000:03d}"
    why = f" ({record.reason})" if record.reason else ""
    return printable(
        f"{clock}  {record.verification.value:<12}  {record.subject:<28}  {_describe(record)}{why}"
    )


def _describe(record: Record) -> str:
    match record.value:
        case MeterFrame() as frame:
            return (
                f"seq {frame.seq}  peak {_levels(frame.peak)} dBFS  rms {_levels(frame.rms)} dBFS  "
                f"true peak {_levels(frame.true_peak)} dBTP  momentary {frame.programme_momentary:.1f} LUFS"
            )
        case AudioPacket() as packet:
            return (
                f"seq {packet.seq}  {packet.codec} {packet.channels} ch  "
                f"{packet.frames} frames at {packet.rate} Hz  {len(packet.data)} bytes"
            )
        case Status() as status:
            return f"seq {status.seq}  {status.state}  {_compact(status.body)}"
        case Event() as event:
            return f"seq {event.seq}  {event.name}  {_compact(event.detail)}"
        case ModuleRecord() as said:
            where = f" of {said.source} at {said.start}" if said.source else ""
            return f"seq {said.seq}  {said.insert} ({said.version}){where}  {_compact(said.data)}"
        case Checkpoint() as checkpoint:
            count = sum(len(stream.digests) for stream in checkpoint.streams.values())
            return f"seq {checkpoint.seq}  {count} records of {len(checkpoint.streams)} streams"
        case WalBatch() as batch:
            return f"records {batch.first} to {batch.first + len(batch.records) - 1}"
        case Ack() as ack:
            why = f": {ack.reason}" if ack.reason else ""
            return f"command {ack.seq}  {ack.result.value}{why}"
    return f"{len(record.payload)} bytes of a kind this version does not know"


def _levels(values: Iterable[float]) -> str:
    numbers = list(values)
    shown = " ".join(f"{value:.1f}" for value in numbers[:_CHANNELS_SHOWN])
    return f"{shown} …" if len(numbers) > _CHANNELS_SHOWN else shown


def _compact(value: object) -> str:
    return json.dumps(_plain(value), ensure_ascii=True, separators=(", ", "="))


def _plain(value: object, depth: int = 0) -> object:
    """Return ``value`` made of what JSON knows."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if depth >= _MAX_DEPTH:
        return str(value)
    if isinstance(value, array | list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if not fields.get("extra", True):
            del fields["extra"]
        return {name: _plain(item, depth + 1) for name, item in fields.items()}
    return str(value)
