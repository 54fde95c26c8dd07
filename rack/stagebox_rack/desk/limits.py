"""Bounds of a run on the desk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeskLimits:
    """Times in seconds, sizes in bytes."""

    signal_s: float = 10.0
    signal_rate: int = 48_000
    signal_channels: int = 2
    meters_s: float = 60.0
    records_kept: int = 1_000  # of what a module says, for the report; more are counted
    records_shown: int = 5
    lines_kept: int = 1_000
    lines_shown: int = 20
    faults_kept: int = 100
    record_line_bytes: int = 1 << 20  # one line of an export
    ready_s: float = 60.0  # compiling 4 MiB takes a while on a small machine
    wait_s: float = 5.0  # for one block; a host that is silent for as long is replaced
    answer_s: float = 0.001  # between two looks for an answer that is late
    tally_s: float = 3.0  # for the counts of the last blocks
    look_s: float = 0.1
    offer_s: float = 0.001  # between two tries to give a record to a host that is busy


LIMITS = DeskLimits()
