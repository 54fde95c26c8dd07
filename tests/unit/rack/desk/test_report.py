from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stagebox_rack.desk.audio_input import MadeSignal
from stagebox_rack.desk.candidate import Candidate, open_candidate
from stagebox_rack.desk.levels import RunLevels
from stagebox_rack.desk.observed import Observed
from stagebox_rack.desk.record_input import MeasuredAudio
from stagebox_rack.desk.report import lines, of_audio, of_records
from stagebox_rack.modules.hosting.hosted import (
    Emitted,
    Faulted,
    HostDied,
    InsertState,
    InsertStatus,
    Logged,
    OverBudget,
    Stopped,
)
from support.modules import signed_module

WHERE: dict[str, str] = {"place": "desk", "insert": "desk", "module": "gain", "version": "1.0.0"}
SECOND = 10**9


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    (tmp_path / "gain.wasm").write_bytes(signed_module())
    return open_candidate(tmp_path / "gain.wasm", {"gain": 0.5})


def status(state: InsertState = InsertState.RUNNING, **more: Any) -> InsertStatus:
    return InsertStatus("desk", "gain", "1.0.0", state, **more)


def ran(blocks: int = 100) -> Observed:
    return Observed(
        offered=blocks,
        trip_ns=[30_000] * (blocks - 1) + [90_000],
        fuel=[1_000] * (blocks - 1) + [2_000],
        wall_s=0.5,
        status=status(
            blocks=blocks, fuel=101_000, fuel_most=2_000, time_ns=blocks * 10_000, time_most_ns=50_000
        ),
    )


def audio_report(candidate: Candidate, observed: Observed) -> dict[str, Any]:
    levels = RunLevels(2)
    levels.add(np.full((960, 2), 0.5, np.float32))
    return of_audio(candidate, MadeSignal(2.0), observed, levels, levels)


def text(found: dict[str, Any]) -> str:
    return "\n".join(lines(json.loads(json.dumps(found, allow_nan=False))))


def test_a_clean_run_shows_time_fuel_and_levels(candidate: Candidate) -> None:
    found = audio_report(candidate, ran())
    assert found["clean"] is True
    assert found["time_us"] == {
        "of": 20_000, "least": 30.0, "median": 30.0, "p99": 30.6, "most": 90.0, "share": 0.0015,
    }  # fmt: skip
    assert (found["fuel"]["least"], found["fuel"]["median"], found["fuel"]["most"]) == (1_000, 1_000, 2_000)
    assert found["fuel"]["of"] == candidate.limits.fuel_per_block
    shown = text(found)
    assert "gain 1.0.0" in shown
    assert "params    gain 0.5" in shown
    assert "100 blocks in 0.50 s, 4 × real time" in shown
    assert "30 µs a block (30 to 90, 99 % within 30.6), 0.15% of real time" in shown
    assert "1,000 a block (1,000 to 2,000), at most 0.02% of 10,000,000" in shown
    assert "level in  peak -6.0 -6.0 dBFS   rms -6.0 -6.0 dBFS" in shown
    assert shown.endswith("clean     no fault, nothing over budget, nothing left out")


def test_a_run_on_records_has_means(candidate: Candidate) -> None:
    found = of_records(candidate, MeasuredAudio(MadeSignal(5.0)), ran())
    assert found["time_us"] == {"mean": 10.0, "most": 50.0, "share": 0.0002}
    assert found["fuel"]["mean"] == 1_010
    shown = text(found)
    assert "10 µs a record in the mean, 50 at most, 0.02% of real time" in shown
    assert "1,010 a record in the mean, 2,000 at most, 0.02% of 10,000,000" in shown


def test_a_run_on_records_shows_how_many_went_in_and_came_out_and_how_fast(candidate: Candidate) -> None:
    observed = ran()
    for number in range(10):
        observed.take(Emitted(**WHERE, out="leq", data={}, start=0, time_ns=number))
    found = of_records(candidate, MeasuredAudio(MadeSignal(5.0)), observed)
    assert (found["given"], found["given_per_s"], found["records"]["per_s"]) == (100, 200.0, 2.0)
    shown = text(found)
    assert "ran       100 records in 0.50 s, 10 × real time, 200 a second" in shown
    assert "records   10 out, 100 in, 2 a second: leq × 10" in shown
    assert "refuses" not in shown


def test_a_telemetry_module_that_says_more_than_a_rack_takes_is_told(candidate: Candidate) -> None:
    observed = ran()
    observed.emitted = 101
    found = of_records(candidate, MeasuredAudio(MadeSignal(5.0)), observed)
    assert found["records"]["limit_per_s"] == 20
    assert "20.2 A SECOND: a rack refuses what is over 20" in text(found)


def test_records_without_a_duration_have_no_rate(candidate: Candidate) -> None:
    records = MeasuredAudio(MadeSignal(5.0))
    records.seconds = 0.0
    observed = ran()
    observed.take(Emitted(**WHERE, out="leq", data={}, start=0, time_ns=0))
    found = of_records(candidate, records, observed)
    assert (found["records"]["per_s"], found["time_us"]["share"]) == (None, None)
    assert "records   1 out, 100 in: leq × 1" in text(found)


def test_what_a_module_says_is_counted_and_its_last_is_shown(candidate: Candidate) -> None:
    observed = ran()
    for number in range(1_500):
        data = {"n": number, "raw": b"\x01", "db": -12.3456789}
        observed.take(Emitted(**WHERE, out="leq", data=data, start=number, time_ns=number * SECOND // 30))
    observed.take(Logged(**WHERE, level=2, text="careful\x1b[2J"))
    found = audio_report(candidate, observed)
    assert (found["records"]["count"], found["records"]["outs"]) == (1_500, {"leq": 1_500})
    assert found["records"]["busiest_second"] == 30
    assert found["records"]["last"][-1]["data"] == {"n": 1_499, "raw": "01", "db": -12.3456789}
    assert len(found["records"]["last"]) == 1_000
    shown = text(found)
    assert "records   1500: leq × 1500" in shown
    assert '0.03 s  leq  {"n": 1499, "raw": "01", "db": -12.346}' in shown
    assert "30 IN ONE SECOND: a rack refuses what is over 20" in shown
    assert "warning: careful\\x1b[2J" in shown


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            Faulted(**WHERE, code="unreachable", reason="process: boom", strikes=1),
            "FAULT  unreachable: process: boom",
        ),
        (
            OverBudget(**WHERE, code="out_of_fuel", reason="process", strikes=1),
            "OVER BUDGET  out_of_fuel: process",
        ),
        (Stopped(**WHERE, code="struck_out", reason="three"), "STOPPED  struck_out: three"),
        (HostDied(0, "signal 9"), "HOST DIED  host_died: signal 9"),
    ],
)
def test_whatever_went_wrong_is_said_and_the_run_is_not_clean(
    candidate: Candidate, event: Any, line: str
) -> None:
    observed = ran()
    observed.take(event)
    found = audio_report(candidate, observed)
    assert found["clean"] is False
    shown = text(found)
    assert line in shown
    assert "NOT CLEAN" in shown


def test_the_same_trap_again_is_counted_and_its_text_is_one_line(candidate: Candidate) -> None:
    observed = ran()
    for strikes in (1, 2, 3):
        trap = Faulted(
            **WHERE, code="unreachable", reason="process: at:\\n    0: f\\n\\nCaused by\x1b", strikes=strikes
        )
        observed.take(trap)
    shown = text(audio_report(candidate, observed))
    assert shown.count("FAULT") == 1
    assert "FAULT  unreachable: process: at: 0: f Caused by\\x1b (3 times)" in shown


def test_blocks_that_went_past_the_module_are_not_clean(candidate: Candidate) -> None:
    observed = replace(ran(), passed=3)
    assert "3 went past the module" in text(audio_report(candidate, observed))


def test_blocks_that_a_rack_would_not_have_waited_for_are_said_and_blame_nobody(candidate: Candidate) -> None:
    found = audio_report(candidate, replace(ran(), late=2))
    assert found["clean"] is True
    assert "late      2 blocks took longer than a rack waits" in text(found)


def test_a_module_that_did_not_start_says_why(candidate: Candidate) -> None:
    reason = status(InsertState.STOPPED, code="init_refused", reason="init returned 1")
    found = audio_report(candidate, Observed(status=reason))
    assert (found["clean"], found["code"], found["time_us"]) == (False, "init_refused", None)
    assert "NOT RUN   init_refused: init returned 1" in text(found)
