"""``python -m conformance.report [FILE]``: measure every case and write the page of results."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conformance import ballistics_cases as ballistics
from conformance.loudness_cases import OFFSETS_MS, RATES, TECH_3341, TECH_3342, LoudnessCase, run
from conformance.programme_material import Comparison, compare, music, speech

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "meter-conformance.md"
_FIELDS = {"ppm1": "PPM type I", "ppm2": "PPM type II", "vu": "VU"}


@dataclass(frozen=True)
class Result:
    """One case at one rate: the lowest and the highest of what it read, and what it may read."""

    name: str
    what: str
    rate: int
    lowest: float
    highest: float
    least: float
    most: float
    unit: str

    @property
    def passed(self) -> bool:
        """Whether every reading was within its limits."""
        return self.least <= self.lowest and self.highest <= self.most


def loudness(case: LoudnessCase, rate: int) -> Result:
    """Measure a case at every offset; where it expects a value for each reading, how far off they were."""
    off, readings = [], []
    for result in run(case, rate):
        read = np.array(case.read(result))
        readings.append(read)
        off.append(read - np.broadcast_to(np.array(case.expected), read.shape))
    if isinstance(case.expected, int | float):
        values, middle = np.concatenate(readings), float(case.expected)
    else:
        values, middle = np.concatenate(off), 0.0
    return Result(
        case.name, case.what, rate, float(values.min()), float(values.max()),
        middle - case.below, middle + case.above, case.unit,
    )  # fmt: skip


def movements(rate: int) -> Iterator[Result]:
    """Measure bursts, returns, steady tones and the VU's step."""
    for burst in ballistics.BURSTS:
        values = ballistics.burst_readings(burst, rate)
        name = f"{_FIELDS[burst.field]}, burst of {burst.ms:g} ms"
        yield _result(name, "5 kHz, below the tone held", rate, values, burst.expected, burst.tolerance, "dB")
    for case in ballistics.RETURNS:
        seconds = [ballistics.return_time(case, rate)]
        name = f"{_FIELDS[case.field]}, return by {case.db:g} dB"
        yield _result(name, "after a tone of 1 s", rate, seconds, case.seconds, case.tolerance, "s")
    for field, name in _FIELDS.items():
        lowest = 40.0 if field == "vu" else 31.5
        steady = ballistics.steady_readings(field, rate).items()
        values = [off for hz, off in steady if hz >= lowest]
        yield _result(
            f"{name}, steady tones", f"{lowest:g} Hz to 16 kHz", rate, values, 0.0, ballistics.FLAT_DB, "dB"
        )
    rise, overshoot = ballistics.vu_step(rate)
    yield _result("VU, rise to 99 %", "a tone that begins", rate, [rise], ballistics.VU_RISE_S,
                  ballistics.VU_RISE_TOLERANCE, "s")  # fmt: skip
    least, most = ballistics.VU_OVERSHOOT
    yield Result("VU, overshoot", "the same", rate, overshoot, overshoot, least, most, "%")


def _result(
    name: str, what: str, rate: int, values: list[float], expected: float, tolerance: float, unit: str
) -> Result:
    return Result(
        name, what, rate, min(values), max(values), expected - tolerance, expected + tolerance, unit
    )


def _table(results: list[Result]) -> str:
    lines = ["| case | signal | rate | read | may read | |", "|---|---|---|---|---|---|"]
    for r in results:
        read = (
            f"{r.lowest:.2f}"
            if f"{r.lowest:.2f}" == f"{r.highest:.2f}"
            else f"{r.lowest:.2f} … {r.highest:.2f}"
        )
        allowed = f"{r.least:.2f} … {r.most:.2f} {r.unit}"
        verdict = "pass" if r.passed else "**fail**"
        lines.append(f"| {r.name} | {r.what} | {r.rate / 1000:g} kHz | {read} | {allowed} | {verdict} |")
    return "\n".join(lines)


def _material(name: str, off: Comparison) -> str:
    return (
        f"| {name} | {off.seconds:.0f} s, {off.frames} frames | {off.momentary:.3f} | {off.short_term:.3f} "
        f"| {off.integrated:.3f} | {off.highest_momentary:.3f} | {off.highest_short_term:.3f} "
        f"| {off.loudness_range:.3f} | {off.true_peak:.3f} |"
    )


def _page(
    synthetic: list[Result], ranges: list[Result], moving: list[Result], material: dict[str, Comparison]
) -> str:
    every = [*synthetic, *ranges, *moving]
    failed = sum(not result.passed for result in every)
    offsets = ", ".join(f"{ms:g}" for ms in OFFSETS_MS)
    return f"""# What the meters read

Made by `just conformance` on {datetime.date.today().isoformat()} from `tests/conformance/`, whose tests assert the same
on every run: {len(every)} results, {failed} failed. What each meter is: [guide to the meters](../guides/meters.md).

Every loudness case is measured as a rack measures, in frames of 50 ms, at four start offsets ({offsets} ms); *read* is
the lowest and the highest over the offsets and over all readings the case asks for. Where a case expects another value
for each reading, *read* is how far off they were.

## EBU Tech 3341

The synthetic cases, 1 to 6 and 9 to 23. Cases 7 and 8 are authentic programmes and are not here.

{_table(synthetic)}

## EBU Tech 3342

The synthetic cases, 1 to 4. Cases 5 and 6 are authentic programmes.

{_table(ranges)}

## PPM and VU

Tone bursts, return times and steady tones of IEC 60268-10 (PPM, types I and II) and IEC 60268-17 (VU), by the figures
commonly published of the standards' tables. A burst is read at eight positions within a frame. A tone locked to a
simple fraction of the sample rate shows the same few points of its wave for ever: at a third of the rate a PPM reads up
to 1.2 dB low.

{_table(moving)}

## Programme material beside libebur128

The largest difference in any frame (momentary, short-term), or at the end; LU, true peak in dB. libebur128 takes a
window a second for the range, we take ten: the standard asks for at least one.

| material | compared | M | S | I | max M | max S | LRA | true peak |
|---|---|---|---|---|---|---|---|---|
{chr(10).join(_material(name, off) for name, off in material.items())}
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="just conformance", description="Measure every meter and write the page."
    )
    parser.add_argument(
        "file", nargs="?", type=Path, default=PAGE, help="where to; docs/reference by default"
    )
    file: Path = parser.parse_args().file
    total = len(RATES) * (len(TECH_3341) + len(TECH_3342))

    def measured(cases: tuple[LoudnessCase, ...], done: int) -> Iterator[Result]:
        for case in cases:
            for rate in RATES:
                done += 1
                print(f"… {done}/{total}: {case.name} at {rate} Hz", file=sys.stderr, flush=True)
                yield loudness(case, rate)

    synthetic = list(measured(TECH_3341, 0))
    ranges = list(measured(TECH_3342, len(synthetic)))
    print("… PPM, VU, programme material", file=sys.stderr, flush=True)
    moving = [result for rate in ballistics.RATES for result in movements(rate)]
    order = list(dict.fromkeys(result.name for result in moving))
    moving.sort(key=lambda result: order.index(result.name))
    material = {"recorded speech": compare(speech()), "rendered music": compare(music())}
    page = _page(synthetic, ranges, moving, material)
    file.write_text(page, "utf-8")
    failed = page.count("**fail**")
    print(f"{file}: {len(synthetic) + len(ranges) + len(moving)} results, {failed} failed")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
