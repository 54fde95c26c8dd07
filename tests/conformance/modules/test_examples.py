"""What holds for every example of `deploy/modules`: what it imports, its memory, and the fuel its README promises."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from conformance.modules.test_equaliser import EIGHT, params_of
from stagebox.cli.wasm.toolchains import ASSEMBLYSCRIPT
from stagebox.modules.interface import check_interface
from stagebox.modules.manifest import FILE_NAME, Language, parse
from stagebox.modules.statement import ModuleLimits
from support.module_builds import EXAMPLES, SUPPORT, Built
from support.wasm_guest import Guest

RATE = 48_000
NAMES = ("noise-event-classifier", "parametric-eq-limiter", "spl-logger")
README = (EXAMPLES / "README.md").read_text("utf-8")
IMPORTS = {
    "noise-event-classifier": {("stagebox", "emit")},
    "parametric-eq-limiter": set(),
    "spl-logger": {("stagebox", "emit")},
}
SET_UP = {"eight bands": params_of(EIGHT), "interval 0.1 s": {"interval": 0.1}, "defaults": {}}
TOLERANCE = 0.03

RecordProperty = Callable[[str, object], None]
Float32 = npt.NDArray[np.float32]


class Promise(NamedTuple):
    """A row of the README's table of fuel."""

    module: str
    set_up: str
    channels: int
    block: int
    start: int


def promises() -> list[Promise]:
    rows = re.findall(
        r"^\| `([a-z-]+)` \| ([a-z0-9. ]+) \| (\d+) \| ([\d,]+) \| ([\d,]+) \|", README, re.MULTILINE
    )
    return [
        Promise(module, set_up, int(channels), *(int(n.replace(",", "")) for n in fuel))
        for module, set_up, channels, *fuel in rows
    ]


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Built:
    fixtures = dict(zip(NAMES, ("classifier", "equaliser", "spl_logger"), strict=True))
    built: Built = request.getfixturevalue(fixtures[request.param])
    return built


def busy(channels: int) -> Float32:
    """Noise with a loud, decaying hit every 200 ms: it keeps limiters and classifiers at work."""
    made = 0.05 * np.random.default_rng(3).standard_normal((2 * RATE, channels))
    made *= 1 + 40 * np.exp(-(np.arange(2 * RATE) % (RATE // 5)) / (0.01 * RATE))[:, np.newaxis]
    return made.astype(np.float32)


def test_all_of_them_are_built_and_listed() -> None:
    found = sorted(path.parent.name for path in EXAMPLES.glob(f"*/{FILE_NAME}"))
    assert found == sorted(NAMES)
    for name in found:
        assert f"]({name}/README.md)" in README
        manifest = parse((EXAMPLES / name / FILE_NAME).read_text("utf-8"))
        assert manifest.name == name
        text = (EXAMPLES / name / "README.md").read_text("utf-8")
        for param in manifest.params:
            named = re.sub(r"^band\d", "band<n>", param.name)
            assert f"`{named}`" in text, param.name
        assert not re.findall(r"`((?:shared|deploy|tests|docs)/[\w./-]+)`", text) or all(
            (EXAMPLES.parents[1] / path).exists()
            for path in re.findall(r"`((?:shared|deploy|tests|docs)/[\w./-]+)`", text)
        )


def test_two_toolchains_build_them() -> None:
    languages = {parse((EXAMPLES / name / FILE_NAME).read_text("utf-8")).build.language for name in NAMES}
    assert languages == {Language.C, Language.ASSEMBLYSCRIPT}


def test_one_release_of_assemblyscript_is_pinned() -> None:
    for directory in (EXAMPLES / "spl-logger", SUPPORT / "assemblyscript"):
        package = json.loads((directory / "package.json").read_text("utf-8"))
        assert package["devDependencies"] == {"assemblyscript": ASSEMBLYSCRIPT}


@pytest.mark.parametrize("example", NAMES, indirect=True)
def test_it_imports_only_what_it_asks_for_and_fits_the_default_limits(example: Built) -> None:
    check_interface(
        example.interface, example.manifest.capabilities, ModuleLimits(), params=example.manifest.params
    )
    found = {(entry.module, entry.name) for entry in example.interface.imports}
    assert found == IMPORTS[example.manifest.name]


@pytest.mark.parametrize("example", NAMES, indirect=True)
def test_its_memory_never_grows(example: Built) -> None:
    guest = Guest(example.data, RATE, 64, example.defaults)
    before = guest.memory.size(guest.store)
    guest.run(busy(64)[: RATE // 2])
    assert guest.memory.size(guest.store) == before <= example.manifest.build.memory_pages


@pytest.mark.parametrize("example", NAMES, indirect=True)
def test_two_instances_are_the_same_sample_for_sample(example: Built) -> None:
    first, second = (Guest(example.data, RATE, 2, example.defaults) for _ in range(2))
    signal = busy(2)
    assert np.array_equal(first.run(signal), second.run(signal))
    assert first.emitted == second.emitted
    assert first.blocks == second.blocks


@pytest.mark.parametrize("example", NAMES, indirect=True)
@pytest.mark.parametrize("frames", [0, -1, RATE // 50 + 1])
def test_frames_it_has_no_room_for_are_not_processed(example: Built, frames: int) -> None:
    assert Guest(example.data, RATE, 1).call("process", frames) == 0


@pytest.mark.parametrize("promise", promises(), ids=str)
def test_a_block_takes_the_fuel_the_readme_says(
    promise: Promise, request: pytest.FixtureRequest, record_property: RecordProperty
) -> None:
    fixtures = dict(zip(NAMES, ("classifier", "equaliser", "spl_logger"), strict=True))
    example: Built = request.getfixturevalue(fixtures[promise.module])
    guest = Guest(example.data, RATE, promise.channels, example.params(**SET_UP[promise.set_up]))
    guest.run(busy(promise.channels))
    dearest = max(guest.blocks)
    record_property("fuel of the dearest block", dearest)
    print(
        f"{promise.module}, {promise.set_up}, {promise.channels} channels: {dearest:,} fuel for the dearest of "
        f"{len(guest.blocks)} blocks of 20 ms, {guest.startup:,} to start"
    )
    assert dearest == pytest.approx(promise.block, rel=TOLERANCE)
    assert guest.startup == pytest.approx(promise.start, rel=TOLERANCE)


def test_the_table_of_fuel_has_every_example_alone_and_with_64_channels() -> None:
    rows = {(promise.module, promise.channels) for promise in promises()}
    assert rows >= {(name, channels) for name in NAMES for channels in (1, 64)}


def test_what_fits_the_default_budget_is_what_the_readme_says() -> None:
    budget = ModuleLimits().fuel_per_block
    over = {(promise.module, promise.channels) for promise in promises() if promise.block > budget}
    assert over == {("parametric-eq-limiter", 64)}
    assert Path(EXAMPLES / "parametric-eq-limiter" / "README.md").read_text("utf-8").count("30,000,000") == 1
