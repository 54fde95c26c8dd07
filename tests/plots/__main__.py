"""``python -m plots``: draw every plot of the guides again into docs/guides/images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

from plots import listening, loudness, movement, trouble

IMAGES = Path(__file__).parents[2] / "docs" / "guides" / "images"
PLOTS: dict[str, Callable[[Path], None]] = {
    "meter-movement": movement.one_burst,
    "meter-bursts": movement.burst_lengths,
    "true-peak": loudness.true_peak,
    "loudness": loudness.speech_loudness,
    "correlation": loudness.correlation,
    "hysteresis": trouble.hysteresis,
    "hum": trouble.hum,
    "jitter-buffer": listening.buffer_lengths,
}


def main() -> None:
    """Draw them one after the other."""
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "stagebox",  # the same plot is the same file
            "svg.fonttype": "none",
            "figure.figsize": (7.2, 3.6),
            "figure.constrained_layout.use": True,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )
    IMAGES.mkdir(exist_ok=True)
    for name, draw in PLOTS.items():
        print(f"… {name}", file=sys.stderr, flush=True)
        draw(IMAGES / f"{name}.svg")
    print(f"{len(PLOTS)} plots in {IMAGES}")


if __name__ == "__main__":
    main()
