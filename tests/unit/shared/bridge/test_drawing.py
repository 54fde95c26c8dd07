"""The bridge on screens of every size: what is shown, what gives way, and that nothing dead looks alive."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from stagebox.bridge.bars import PLAIN, UNICODE, Glyphs
from stagebox.bridge.drawing import Scale, View, draw
from stagebox.bridge.state import BridgeState
from stagebox.records.meter import Condition, MeterFrame, levels
from stagebox.records.status import Status
from stagebox.subjects import Kind
from stagebox.subscriber import Record, Verification
from support.frames import meter_frame

BOOT = bytes(16)


def heard(value: MeterFrame | Status, rack: str = "left", source: str = "main") -> Record:
    kind, leaf = (Kind.METER, source) if isinstance(value, MeterFrame) else (Kind.STATUS, None)
    return Record(f"rack.{rack}.{kind.value}", rack, kind, leaf, b"", 0, value)


def bridge(racks: int = 1, channels: int = 2, now: float = 0.0) -> BridgeState:
    state = BridgeState()
    for number in range(racks):
        frame = meter_frame(1, BOOT, channels=channels, peak=-20.0, momentary=-23.1)
        state.take(heard(frame, f"rack-{number:02d}"), now)
    return state


def drawn(state: BridgeState, width: int, height: int, now: float = 0.1, **fields: object) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, color_system=None)
    console.print(draw(View(state, now, width, height, **fields)))  # type: ignore[arg-type]
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(40, 12), (80, 24), (200, 60), (40, 3)])
@pytest.mark.parametrize("racks", [1, 2, 30])
@pytest.mark.parametrize("channels", [1, 2, 64])
def test_it_never_exceeds_the_screen(width: int, height: int, racks: int, channels: int) -> None:
    lines = drawn(bridge(racks, channels), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_with_room_every_channel_has_a_bar_and_every_programme_a_line() -> None:
    lines = drawn(bridge(2, 2), 80, 24)
    assert sum("█" in line or "▒" in line for line in lines) == 4
    assert sum(" I " in line for line in lines) == 2
    text = "\n".join(lines)
    for shown in ("rack-00", "rack-01", "−20.0 pk", "M −23.1", "LRA", "2 racks"):
        assert shown in text


def test_without_room_each_source_has_one_line_and_what_does_not_fit_is_counted() -> None:
    lines = drawn(bridge(30, 2), 80, 24)
    assert sum(line.startswith("rack-") for line in lines) == 23
    assert "7 more lines do not fit" in lines[-1]
    assert "S −23.1" in lines[0]


def test_a_frozen_meter_never_looks_alive() -> None:
    text = "\n".join(drawn(bridge(), 80, 24, now=4.3))
    assert "no data for 4.3 s" in text
    assert "no data for 4.3 s" in "\n".join(drawn(bridge(30), 80, 10, now=4.3))
    assert "NOT CONNECTED" in drawn(bridge(), 80, 24, connected=False)[-1]


def test_names_come_from_the_heartbeat_and_control_characters_do_not() -> None:
    state = bridge()
    told = {
        "source": "main",
        "channel_names": ["vox", "kick\x1b[2J"],
        "programmes": ["mix"],
        "pairs": [[0, 1]],
    }
    state.take(
        heard(Status(1, BOOT, 0, "running", {"sources": [told, "odd", {"source": 5}]}), "rack-00"), 0.0
    )
    text = "\n".join(drawn(state, 100, 24))
    assert "vox" in text
    assert "mix" in text
    assert "phase +0.50" in text
    assert "\x1b" not in text


def test_what_is_wrong_with_a_channel_is_a_word_beside_it() -> None:
    frame = meter_frame(1, BOOT, flags=bytes((Condition.CLIP | Condition.HUM, Condition.SILENCE)))
    state = BridgeState()
    state.take(heard(frame), 0.0)
    lines = drawn(state, 100, 24)
    assert lines[1].rstrip().endswith("CLIP HUM")
    assert lines[2].rstrip().endswith("SILENT")
    assert "CLIP SILENT HUM" in drawn(state, 100, 3)[0]


@pytest.mark.parametrize("scale", list(Scale))
def test_each_scale_shows_its_meter(scale: Scale) -> None:
    values = {"ppm1": -30.0, "ppm2": -31.0, "vu": -32.0, "true_peak": -19.0}
    meters: dict[str, Any] = {name: levels([value, value]) for name, value in values.items()}
    frame = meter_frame(1, BOOT, peak=-20.0, **meters)
    state = BridgeState()
    state.take(heard(frame), 0.0)
    shown = {Scale.PEAK: "−20.0 pk", Scale.TRUE_PEAK: "−19.0 true-peak"}
    expected = shown.get(scale) or f"−{-values[scale.value]:.1f} {scale.value}"
    assert expected in "\n".join(drawn(state, 80, 24, scale=scale))


def test_a_rack_of_the_first_release_is_shown_with_what_it_measures() -> None:
    one = levels([-20.0, -21.0])
    old = MeterFrame(1, BOOT, 0, 0, 2400, 48_000, one, one, one, one, version=1)
    state = BridgeState()
    state.take(heard(old), 0.0)
    assert "−20.0 ppm2" in "\n".join(drawn(state, 80, 24, scale=Scale.PPM2))


@pytest.mark.parametrize(("glyphs", "marks"), [(UNICODE, "█"), (PLAIN, "#")])
def test_a_terminal_without_utf8_gets_plain_characters(glyphs: Glyphs, marks: str) -> None:
    text = "\n".join(drawn(bridge(), 80, 24, glyphs=glyphs))
    assert marks in text
    if glyphs is PLAIN:
        assert text.isascii()


def test_missed_frames_are_counted_over_a_boot_and_late_ones_ignored() -> None:
    state = BridgeState()
    for seq in (1, 2, 5, 4):
        state.take(heard(meter_frame(seq, BOOT)), 0.0)
    assert state.racks["left"].sources["main"].lost == 2
    state.take(heard(meter_frame(1, bytes(15) + b"\1")), 0.0)
    assert state.racks["left"].sources["main"].lost == 2
    assert "2 frames missed" in drawn(state, 80, 24)[0]


def test_frames_that_are_not_proved_are_counted_when_asked() -> None:
    state = BridgeState(verify=True)
    for seq, verdict in ((1, Verification.VERIFIED), (2, Verification.BAD), (3, Verification.PENDING)):
        record = heard(meter_frame(seq, BOOT))
        state.take(record, 0.0)
        if verdict is not Verification.PENDING:
            record.settle(verdict)
    state.sweep()
    assert state.racks["left"].sources["main"].unproved == 1
    assert "1 NOT PROVED" in drawn(state, 80, 24)[0]


def test_a_rack_that_was_asked_for_and_never_heard_is_shown_as_such() -> None:
    assert "nothing heard yet" in drawn(BridgeState(("left",)), 80, 24)[0]
