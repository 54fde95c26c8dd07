"""Level bars of text. Pure.

Levels are coloured by the field's habit: green below −18 dBFS, yellow up to −9, red above; the bar's length says the
same, so nothing depends on telling the colours apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.text import Text

BOTTOM_DB = -60.0
YELLOW_DB = -18.0
RED_DB = -9.0
WIDTH = 36
_FLOOR_DB = -99.9


@dataclass(frozen=True)
class Glyphs:
    """The characters of the bars; terminals without UTF-8 get plain ones."""

    rms: str = "█"
    peak: str = "▒"
    empty: str = "·"
    hold: str = "┃"
    minus: str = "−"


UNICODE = Glyphs()
PLAIN = Glyphs("#", "=", ".", "|", "-")


def glyphs_for(encoding: str) -> Glyphs:
    """The characters that a terminal of ``encoding`` can show."""
    return UNICODE if encoding.lower().replace("-", "").startswith("utf") else PLAIN


def level_style(db: float) -> str:
    """The colour of a level in dBFS."""
    return "red" if db >= RED_DB else "yellow" if db >= YELLOW_DB else "green"


def bar(rms: float, peak: float, hold: float, glyphs: Glyphs, width: int = WIDTH) -> Text:
    """Draw one channel from :data:`BOTTOM_DB` to 0 dBFS; each cell has the colour of its level.

    A solid bar reaches ``rms``, a light one ``peak``, a mark stands at ``hold``.
    """
    full, lit, mark = (_cells(value, width) for value in (rms, peak, hold))
    text = Text()
    for cell in range(width):
        style = level_style(BOTTOM_DB - BOTTOM_DB * (cell + 0.5) / width)
        if cell == mark - 1 and mark > lit:
            text.append(glyphs.hold, style)
        elif cell < full:
            text.append(glyphs.rms, style)
        elif cell < lit:
            text.append(glyphs.peak, style)
        else:
            text.append(glyphs.empty, "dim")
    return text


def db(value: float, glyphs: Glyphs) -> str:
    """A level in six characters; the floor of the meters is said as such, no value as a dash."""
    if math.isnan(value):
        return "     –" if glyphs is not PLAIN else "     -"
    return "  -inf" if value < _FLOOR_DB else f"{value:6.1f}".replace("-", glyphs.minus)


def _cells(value: float, width: int) -> int:
    if math.isnan(value):
        return 0
    return max(0, min(width, round((value - BOTTOM_DB) / -BOTTOM_DB * width)))
