"""Decides what each rack captures: the default device where there really is one, else the rendered programme.

Rules: nothing synthetic is ever called captured; the choice and its reason are shown.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from demo.errors import DemoError
from demo.limits import LIMITS
from demo.processes import Child, tail

_OWN_MODULES = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


class Wanted(enum.StrEnum):
    """What the user asked for."""

    AUTO = "auto"
    DEVICE = "device"
    PROGRAMME = "programme"


@dataclass(frozen=True)
class Source:
    """What one rack captures: ``spec`` for ``rack run --source``, ``label`` for people, ``why`` it was chosen."""

    kind: Wanted
    spec: str
    label: str
    why: str


@dataclass(frozen=True)
class Probed:
    """How many racks the default capture device can serve at once; ``reason`` says why not more."""

    delivering: int
    device: str
    reason: str


async def probe_device(count: int, log: Path) -> Probed:
    """Ask a process of its own about the default device; any failure of it means that there is none."""
    argv = [sys.executable, "-m", "demo.device_probe", str(count)]
    child = await Child.spawn("capture device probe", argv, log=log, settings=_OWN_MODULES)
    try:
        _, out = await child.finish(None, LIMITS.device_probe)
        answer = json.loads(out.splitlines()[-1])
        return Probed(int(answer["delivering"]), str(answer["device"]), str(answer["reason"]))
    except DemoError as error:
        return Probed(0, "", error.message)
    except (IndexError, KeyError, TypeError, ValueError):
        last = (tail(log) or ["it said nothing"])[-1]
        return Probed(0, "", f"the capture device could not be tried: {last}")


async def choose(wanted: Wanted, racks: Sequence[str], directory: Path) -> dict[str, Source]:
    """Return the source of every rack; renders the programme into ``directory`` if one needs it.

    Raises:
        DemoError: a device was asked for and cannot serve every rack.
    """
    probed = Probed(0, "", "asked for by --source")
    if wanted is not Wanted.PROGRAMME:
        probed = await probe_device(len(racks), directory / "device-probe.log")
    chosen = assign(wanted, racks, probed, directory / "programme.wav")
    if any(source.kind is Wanted.PROGRAMME for source in chosen.values()):
        await _render(directory / "programme.wav", directory / "render.log")
    return chosen


def assign(wanted: Wanted, racks: Sequence[str], probed: Probed, programme: Path) -> dict[str, Source]:
    """Return which rack captures what, given what the device can do.

    Raises:
        DemoError: a device was asked for and cannot serve every rack.
    """
    if wanted is Wanted.DEVICE and probed.delivering < len(racks):
        raise DemoError(
            f"the default capture device serves {probed.delivering} of {len(racks)} racks: {probed.reason}",
            remedy="`stagebox rack devices` lists what there is; --source programme needs none",
        )
    device = Source(Wanted.DEVICE, "device:default", f"capture device {probed.device}", "")
    rendered = Source(
        Wanted.PROGRAMME,
        f"file:{quote(str(programme))}?loop=1",
        "rendered programme, looped",
        probed.reason,
    )
    return {name: device if place < probed.delivering else rendered for place, name in enumerate(racks)}


async def _render(path: Path, log: Path) -> None:
    argv = [sys.executable, "-m", "demo.render_programme", str(path)]
    child = await Child.spawn("programme renderer", argv, log=log, settings=_OWN_MODULES)
    code, _ = await child.finish(None, LIMITS.command)
    if code:
        raise DemoError(f"the programme could not be rendered (code {code})", log=log)
