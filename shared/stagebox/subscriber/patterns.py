"""Subject patterns of racks: what a pattern matches, and which checkpoints prove what it selects. Pure."""

from __future__ import annotations

from stagebox.errors import InputError
from stagebox.subjects import Kind


def matches(pattern: str, subject: str) -> bool:
    """Tell whether a NATS pattern matches a concrete subject."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(given) > index
        if index >= len(given) or part not in ("*", given[index]):
            return False
    return len(wanted) == len(given)


def checkpoint_pattern(pattern: str) -> str | None:
    """Return the checkpoints to subscribe besides ``pattern``, None if it selects them already.

    Raises:
        InputError: the pattern is not below ``rack.``, so nothing can prove what it selects.
    """
    parts = pattern.split(".")
    if parts[0] != "rack" or len(parts) < 2:
        raise InputError(
            f"{pattern!r} does not select records of racks",
            remedy="write rack.<name or *>.<kind>.…, for instance 'rack.*.meter.>'",
        )
    rack = "*" if parts[1] == ">" else parts[1]
    wanted = f"rack.{rack}.{Kind.CHECKPOINT.value}"
    selected = parts[1] == ">" or (len(parts) == 3 and parts[2] in (">", "*", Kind.CHECKPOINT.value))
    return None if selected else wanted
