"""What a module may ask for, and which import each thing stands for."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

IMPORT_MODULE = "stagebox"
"""The one Wasm module name that imports may come from."""


class Capability(enum.StrEnum):
    """A capability by its name on the wire."""

    AUDIO = "audio"
    """It is given blocks of audio, and what it returns is used."""
    TELEMETRY = "telemetry"
    """It is given meter frames, events and alerts."""
    EMIT = "emit"
    """It makes records under its own subject."""
    LOG = "log"
    """It writes to the rack's log."""
    CLOCK = "clock"
    """It reads the rack's wall clock."""


IMPORTS: Mapping[str, Capability] = MappingProxyType(
    {"emit": Capability.EMIT, "log": Capability.LOG, "now": Capability.CLOCK}
)
"""Importable functions, and the capability each needs."""
