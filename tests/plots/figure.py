"""One figure with one pair of axes, saved without a date so that it changes only when the curve does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib import pyplot


@contextlib.contextmanager
def figure(path: Path, x: str, y: str) -> Iterator[Any]:
    """Yield the axes and save them to ``path``; ``x`` and ``y`` are the labels."""
    drawn, axes = pyplot.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    try:
        yield axes
        drawn.savefig(path, metadata={"Date": None, "Creator": None})
    finally:
        pyplot.close(drawn)
