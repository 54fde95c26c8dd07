"""What came of a run on the desk: as a document for programs, and as lines for a person. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stagebox.logs import printable
from stagebox_rack.desk.audio_input import BLOCKS_PER_SECOND, AudioInput
from stagebox_rack.desk.candidate import Candidate
from stagebox_rack.desk.levels import RunLevels
from stagebox_rack.desk.limits import LIMITS
from stagebox_rack.desk.observed import Observed, Trouble
from stagebox_rack.desk.record_input import RecordInput
from stagebox_rack.modules.hosting.hosted import Faulted, HostDied, InsertState, OverBudget

Document = dict[str, Any]

_LEVELS = ("debug", "info", "warning", "error")
_NS = 1_000_000_000
_BLOCK_US = 1_000_000 / BLOCKS_PER_SECOND


def document(candidate: Candidate, what: str, seconds: float, observed: Observed) -> Document:
    """Return the facts that runs on audio and on records have in common; ``seconds`` is how long the input lasts."""
    status = observed.status
    limits = candidate.limits
    return {
        "file": str(candidate.file),
        "module": candidate.name,
        "version": candidate.version,
        "origin": candidate.origin,
        "bytes": len(candidate.data),
        "granted": sorted(capability.value for capability in candidate.granted),
        "params": {param.name: candidate.values[param.id] for param in candidate.params},
        "params_changed": [
            param.name for param in candidate.params if candidate.values[param.id] != param.default
        ],
        "input": what,
        "clean": observed.clean,
        "state": status.state.value if status else InsertState.STARTING.value,
        "code": status.code if status else "",
        "reason": status.reason if status else "",
        "given": observed.offered,
        "passed": observed.passed,
        "late": observed.late,
        "faults": status.faults if status else 0,
        "over_budget": status.over_budget if status else 0,
        "wall_s": round(observed.wall_s, 3),
        "speed": round(seconds / observed.wall_s, 1) if observed.wall_s else None,
        "time_us": None,
        "fuel": None,
        "records": {
            "count": observed.emitted,
            "outs": dict(observed.outs),
            "per_s": round(observed.emitted / seconds, 2) if seconds else None,
            "limit_per_s": limits.records_per_s,
            "last": [
                {"out": one.out, "start": one.start, "time_ns": one.time_ns, "data": _plain(one.data)}
                for one in observed.records
            ],
        },
        "log": {
            "count": observed.line_count,
            "last": [{"level": _LEVELS[one.level], "text": one.text} for one in observed.lines],
        },
        "troubles": {
            "count": observed.trouble_count,
            "first": [_trouble(one) for one in observed.troubles],
        },
    }


def of_audio(
    candidate: Candidate, audio: AudioInput, observed: Observed, before: RunLevels, after: RunLevels
) -> Document:
    """Return the document of a run on audio."""
    found = document(candidate, audio.what, audio.frames / audio.rate, observed)
    found["rate"] = audio.rate
    found["time_us"] = _spread([took / 1000 for took in observed.trip_ns], share_of=_BLOCK_US)
    found["fuel"] = _spread(observed.fuel, share_of=candidate.limits.fuel_per_block)
    found["records"]["busiest_second"] = observed.busiest
    found["levels"] = {
        "in": {"peak_dbfs": before.peak(), "rms_dbfs": before.rms()},
        "out": {"peak_dbfs": after.peak(), "rms_dbfs": after.rms()},
    }
    return found


def of_records(candidate: Candidate, records: RecordInput, observed: Observed) -> Document:
    """Return the document of a run on records, whose host tells sums and the most."""
    found = document(candidate, records.what, records.seconds, observed)
    found["given_per_s"] = round(observed.offered / observed.wall_s, 1) if observed.wall_s else None
    status = observed.status
    if status is not None and status.blocks:
        budget = candidate.limits.fuel_per_block
        found["time_us"] = {
            "mean": round(status.time_ns / status.blocks / 1000, 2),
            "most": round(status.time_most_ns / 1000, 2),
            "share": round(status.time_ns / _NS / records.seconds, 6) if records.seconds else None,
        }
        found["fuel"] = {
            "budget": budget,
            "mean": round(status.fuel / status.blocks),
            "most": status.fuel_most,
            "share": round(status.fuel_most / budget, 6),
        }
    return found


def _spread(values: Sequence[float], share_of: float) -> Document | None:
    if not values:
        return None
    least, median, p99, most = np.percentile(values, (0, 50, 99, 100))
    whole = isinstance(values[0], int)
    found = {
        name: round(float(value)) if whole else round(float(value), 2)
        for name, value in (("least", least), ("median", median), ("p99", p99), ("most", most))
    }
    return {"of": round(share_of), **found, "share": round(float(median) / share_of, 6)}


def _trouble(event: Trouble) -> Document:
    if isinstance(event, HostDied):
        return {"what": "host_died", "code": "host_died", "reason": event.reason}
    what = (
        "fault"
        if isinstance(event, Faulted)
        else "over_budget"
        if isinstance(event, OverBudget)
        else "stopped"
    )
    return {"what": what, "code": event.code, "reason": event.reason}


def _plain(value: Any) -> Any:
    """Return a record's data with bytes as hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _short(value: Any) -> Any:
    """Return a record's data with numbers as short as a person wants them."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list) else value


def lines(found: Document) -> Iterable[str]:
    """Yield the report for people."""
    yield f"module    {found['module']} {found['version']}, {found['bytes']} bytes, {found['origin']}"
    if found["params"]:
        changed = [f"{name} {found['params'][name]:g}" for name in found["params_changed"]]
        yield "params    " + (", ".join(changed) if changed else "all at their defaults")
    yield f"input     {printable(found['input'])}"
    if not found["given"]:
        yield f"NOT RUN   {found['code']}: {printable(found['reason'])}"
        return
    yield from _ran(found)
    if "levels" in found:
        for side, named in (("in", "level in "), ("out", "level out")):
            peak, rms = (found["levels"][side][name] for name in ("peak_dbfs", "rms_dbfs"))
            yield f"{named} peak {_numbers(peak)} dBFS   rms {_numbers(rms)} dBFS"
    yield from _said(found)
    yield from _wrong(found)


def _ran(found: Document) -> Iterable[str]:
    unit = "blocks" if "rate" in found else "records"
    speed = f", {found['speed']:g} × real time" if found["speed"] else ""
    pace = f", {found['given_per_s']:,.0f} a second" if found.get("given_per_s") else ""
    yield f"ran       {found['given']} {unit} in {found['wall_s']:.2f} s{speed}{pace}"
    time_us, fuel = found["time_us"], found["fuel"]
    if time_us and "median" in time_us:
        yield (
            f"time      {time_us['median']:g} µs a block ({time_us['least']:g} to {time_us['most']:g}, 99 % within "
            f"{time_us['p99']:g}), {time_us['share']:.2%} of real time, there and back"
        )
        yield (
            f"fuel      {fuel['median']:,} a block ({fuel['least']:,} to {fuel['most']:,}), "
            f"at most {fuel['most'] / fuel['of']:.2%} of {fuel['of']:,}"
        )
        if found["late"]:
            yield f"late      {found['late']} blocks took longer than a rack waits: module or machine is too slow"
    elif time_us:
        share = "" if time_us["share"] is None else f", {time_us['share']:.2%} of real time"
        yield f"time      {time_us['mean']:g} µs a record in the mean, {time_us['most']:g} at most{share}"
        yield (
            f"fuel      {fuel['mean']:,} a record in the mean, {fuel['most']:,} at most, "
            f"{fuel['share']:.2%} of {fuel['budget']:,}"
        )


def _said(found: Document) -> Iterable[str]:
    records = found["records"]
    if records["count"]:
        outs = ", ".join(f"{name} × {count}" for name, count in records["outs"].items())
        yield f"records   {records['count']}{_of_given(found)}: {outs}"
        for one in records["last"][-LIMITS.records_shown :]:
            at = f"{one['start'] / found['rate']:8.2f} s  " if "rate" in found else ""
            yield f"    {at}{one['out']}  {json.dumps(_short(one['data']), ensure_ascii=True)}"
        busiest = records.get("busiest_second", 0)
        if busiest > records["limit_per_s"]:
            yield f"    {busiest} IN ONE SECOND: a rack refuses what is over {records['limit_per_s']}"
        elif (records["per_s"] or 0) > records["limit_per_s"]:
            yield f"    {records['per_s']:g} A SECOND: a rack refuses what is over {records['limit_per_s']}"
    elif "emit" in found["granted"]:
        yield "records   none"
    if found["log"]["count"]:
        yield f"log       {found['log']['count']} line" + "s" * (found["log"]["count"] != 1)
        for line in found["log"]["last"][-LIMITS.lines_shown :]:
            yield f"    {line['level']}: {printable(line['text'])}"


def _of_given(found: Document) -> str:
    """Return what a run on records made of how many, and how many a second of what was recorded."""
    if "given_per_s" not in found:
        return ""
    per_s = found["records"]["per_s"]
    return f" out, {found['given']} in" + (f", {per_s:g} a second" if per_s is not None else "")


def _wrong(found: Document) -> Iterable[str]:
    troubles = found["troubles"]
    said = (
        f"{one['what'].upper().replace('_', ' ')}  {one['code']}: {_one_line(one['reason'])}"
        for one in troubles["first"]
    )
    for line, times in list(Counter(said).items())[: LIMITS.lines_shown]:
        yield f"{line} ({times} times)" if times > 1 else line
    if found["clean"]:
        yield "clean     no fault, nothing over budget, nothing left out"
    else:
        state = ", and it was stopped" if found["state"] == InsertState.STOPPED.value else ""
        yield (
            f"NOT CLEAN {found['faults']} faults, {found['over_budget']} over budget, "
            f"{found['passed']} went past the module{state}"
        )


def _one_line(reason: str) -> str:
    """Return a trap's text without the line ends that the host escaped."""
    return printable(" ".join(reason.replace("\\n", " ").split()))


def _numbers(values: Sequence[float]) -> str:
    shown = " ".join(f"{value:.1f}" for value in values[:8])
    return f"{shown} …" if len(values) > 8 else shown
