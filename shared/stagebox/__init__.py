"""Stagebox: fleets of headless audio boxes that can be trusted.

The public face of the subscriber SDK::

    async with stagebox.connect("wss://mixer:4222", identity="ops") as bus:
        async for record in bus.records("rack.*.meter.>", verify=True):
            ...

Names are imported on first use, so that a command that needs none of them starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagebox.errors import StageboxError as StageboxError
    from stagebox.errors import VerificationError as VerificationError
    from stagebox.listening.listener import AudioBlock as AudioBlock
    from stagebox.records.audio import AudioPacket as AudioPacket
    from stagebox.records.event import Event as Event
    from stagebox.records.meter import MeterFrame as MeterFrame
    from stagebox.records.status import Status as Status
    from stagebox.subscriber import connect as connect

_HOMES = {
    "AudioBlock": "stagebox.listening.listener",
    "AudioPacket": "stagebox.records.audio",
    "Event": "stagebox.records.event",
    "MeterFrame": "stagebox.records.meter",
    "StageboxError": "stagebox.errors",
    "Status": "stagebox.records.status",
    "VerificationError": "stagebox.errors",
    "connect": "stagebox.subscriber",
}

__all__ = [
    "AudioBlock",
    "AudioPacket",
    "Event",
    "MeterFrame",
    "StageboxError",
    "Status",
    "VerificationError",
    "connect",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stagebox' has no attribute {name!r}")
    return getattr(import_module(home), name)
