"""Bounds of the commands that make modules and look at them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AuthoringLimits:
    """Sizes in bytes, times in seconds."""

    max_manifest_bytes: int = 64 << 10
    max_source_bytes: int = 16 << 20
    compile_s: float = 300.0
    stack_bytes: int = 64 << 10
    shown_racks: int = 100


LIMITS = AuthoringLimits()
