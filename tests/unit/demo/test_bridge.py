from __future__ import annotations

import io
from array import array

import pytest
from rich.console import Console

from demo import bridge
from demo.bridge import RackView, View
from demo.telemetry import RackTelemetry
from stagebox import MeterFrame, Status
from stagebox.bridge.bars import PLAIN, UNICODE, Glyphs
from stagebox.subjects import Kind
from stagebox.subscriber import Record, Verification
from support.frames import meter_frame


def frame(channels: int = 2, peak: float = -8.5) -> MeterFrame:
    def levels(value: float) -> array[float]:
        return array("f", [value] * channels)

    return meter_frame(
        1,
        bytes(16),
        channels=channels,
        peak=peak,
        momentary=-23.1,
        rms=levels(-23.0),
        true_peak=levels(peak + 0.4),
    )


def record(value: MeterFrame | Status, kind: Kind) -> Record:
    return Record(f"rack.stage-left.{kind.value}", "stage-left", kind, None, b"", 0, value)


def rack(channels: int = 2, peak: float = -8.5) -> RackTelemetry:
    made = RackTelemetry("stage-left")
    made.take(record(frame(channels, peak), Kind.METER), 0.0)
    body = {
        "transport": {"tls": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "client_certificate": True},
        "wal": {"records": 12_345_678, "acknowledged": 12_345_670, "segments": 12},
    }
    status = record(Status(1, bytes(16), 0, "running", body), Kind.STATUS)
    made.take(status, 0.0)
    status.settle(Verification.VERIFIED)
    made.sweep()
    return made


def view(*racks: RackTelemetry, glyphs: Glyphs = UNICODE) -> View:
    views = [RackView(each, "rendered programme, looped", 12_345_670) for each in racks]
    return View(views, "mixer ready in 1234 ms", 4321, 59.0, None, True, glyphs)


def drawn(shown: View, *, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=80, height=24, force_terminal=color, color_system="standard" if color else None
    )
    console.print(bridge.draw(shown))
    return out.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 16])
def test_two_racks_fit_80_by_24_whatever_they_capture(channels: int) -> None:
    lines = drawn(view(rack(channels), rack(channels))).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_it_shows_level_loudness_tls_and_every_counter() -> None:
    text = drawn(view(rack()))
    for shown in ("−23.0 rms", "−8.5 pk", "−8.1 tp", "−23.1 LUFS-M", "TLSv1.3 TLS_AES_256_GCM_SHA384",
                  "client certificate", "1 received, 0 verified, 1 pending, 0 bad", "12345678 records",
                  "12345670 acked", "12345670 committed", "12 segments", "4321 batches"):  # fmt: skip
        assert shown in text, text


def test_a_rack_that_is_silent_so_far_is_shown_as_such() -> None:
    text = drawn(view(RackTelemetry("stage-left")))
    assert "no frame yet" in text
    assert "no verified status yet" in text


def test_a_status_is_not_believed_before_it_is_verified() -> None:
    made = RackTelemetry("stage-left")
    status = record(Status(1, bytes(16), 0, "stopping", {}), Kind.STATUS)
    made.take(status, 0.0)
    made.sweep()
    assert made.final is None
    status.settle(Verification.BAD)
    made.sweep()
    assert made.final is None


def test_terminals_without_utf8_get_plain_bars() -> None:
    bars = drawn(view(rack(), glyphs=PLAIN))
    assert "#" in bars
    assert not set(bars) & set("█▒┃−·")


def test_without_colour_there_is_no_escape_sequence() -> None:
    assert "\x1b" not in drawn(view(rack()))
    assert "\x1b" in drawn(view(rack()), color=True)


def test_a_plain_line_says_the_same_in_words() -> None:
    line = bridge.plain_line(RackView(rack(), "x", 7))
    assert "peak -8.5 dBFS" in line
    assert "1 received 0 verified 1 pending 0 bad" in line
    assert "mixer committed 7" in line
