"""The one line that shows what is being heard: level, buffer, losses."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stagebox.listening.listener import AudioBlock, Listener

_EVERY_S = 0.1
_FLOOR_DB = -60.0
_WIDTH = 24


class LevelLine:
    """Redraws itself in place on a terminal, ten times a second; silent elsewhere."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._title = title
        self._quiet = quiet or not sys.stderr.isatty()
        self._peak = 0.0
        self._shown = 0.0

    def show(self, block: AudioBlock, listener: Listener) -> None:
        """Take one block."""
        if self._quiet:
            return
        self._peak = max(self._peak, float(np.abs(block.samples).max(initial=0.0)))
        now = time.monotonic()
        if now - self._shown < _EVERY_S:
            return
        level = 20 * np.log10(max(self._peak, 1e-9))
        filled = round(_WIDTH * (max(level, _FLOOR_DB) - _FLOOR_DB) / -_FLOOR_DB)
        bar = "#" * min(filled, _WIDTH) + "." * (_WIDTH - min(filled, _WIDTH))
        packets = listener.stats.packets
        sys.stderr.write(
            f"\r{self._title} [{bar}] {level:6.1f} dBFS  buffer {listener.buffered_ms:3.0f} ms  "
            f"lost {packets.lost}  late {packets.late}\x1b[K"
        )
        sys.stderr.flush()
        self._peak, self._shown = 0.0, now

    def end(self) -> None:
        """Leave the line."""
        if not self._quiet and self._shown:
            sys.stderr.write("\n")
