"""What the journal reports about itself; the application turns it into bus events, alerts and log lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "alert"]


@dataclass(frozen=True)
class JournalEvent:
    """One thing that happened to the journal. ``detail`` holds CBOR-able values only, never a secret."""

    name: str
    severity: Severity
    detail: dict[str, Any] = field(default_factory=dict)


OnEvent = Callable[[JournalEvent], None]
