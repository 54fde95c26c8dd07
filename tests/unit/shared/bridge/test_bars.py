"""Bars of text: lengths, colours, marks, and what a plain terminal gets."""

from __future__ import annotations

import math

import pytest

from stagebox.bridge import bars
from stagebox.bridge.bars import PLAIN, UNICODE, glyphs_for


@pytest.mark.parametrize(
    ("level", "style"), [(-18.1, "green"), (-18.0, "yellow"), (-9.1, "yellow"), (-9.0, "red")]
)
def test_levels_are_coloured_at_minus_18_and_minus_9(level: float, style: str) -> None:
    assert bars.level_style(level) == style


def test_a_bar_marks_rms_peak_and_held_true_peak() -> None:
    text = bars.bar(-40.0, -20.0, -10.0, PLAIN, width=60).plain
    assert text == "#" * 20 + "=" * 20 + "." * 9 + "|" + "." * 10


def test_a_level_without_a_value_is_no_level() -> None:
    assert bars.bar(math.nan, math.nan, math.nan, PLAIN, width=5).plain == "....."
    assert bars.db(math.nan, UNICODE).strip() == "–"
    assert bars.db(-150.0, UNICODE).strip() == "-inf"
    assert bars.db(-6.25, UNICODE).strip() == "−6.2"


@pytest.mark.parametrize(
    ("encoding", "glyphs"), [("utf-8", UNICODE), ("UTF8", UNICODE), ("ascii", PLAIN), ("latin-1", PLAIN)]
)
def test_a_terminal_gets_the_characters_it_can_show(encoding: str, glyphs: bars.Glyphs) -> None:
    assert glyphs_for(encoding) is glyphs
