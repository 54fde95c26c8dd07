"""What docs/reference/module-abi.md shows and counts is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import wasmtime

from stagebox.modules.capabilities import IMPORTS, Capability
from stagebox.modules.interface import check_interface, read_interface
from stagebox.modules.limits import LIMITS
from stagebox.modules.params import Param, encode_params, read_params
from stagebox.modules.statement import ModuleLimits
from stagebox.modules.walker import walk
from stagebox_rack.limits import LIMITS as RACK
from support.wasm_guest import Guest

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "module-abi.md").read_text("utf-8")


def shown(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(block)


def number(text: str) -> int:
    digits, _, unit = text.replace(",", "").partition(" ")
    return int(digits) * {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}[unit]


def test_the_module_it_shows_is_one_and_halves_its_input() -> None:
    data = bytes(wasmtime.wat2wasm(shown("wat")))
    check_interface(read_interface(data, walk(data)), {Capability.AUDIO}, ModuleLimits())
    signal = np.random.default_rng(1).standard_normal((2_000, 3)).astype(np.float32)
    assert np.array_equal(Guest(data, 48_000, 3).run(signal), signal / 2)


def test_the_parameters_it_shows_are_those_bytes() -> None:
    (section,) = re.findall(r"^```\n((?:[0-9a-f]+\n)+)```", PAGE, re.MULTILINE)
    params = (Param("gain", 0, 0.0, 4.0, 1.0, "dB"),)
    assert bytes.fromhex(section) == encode_params(params)
    data = b"\0asm\1\0\0\0" + bytes.fromhex(section)
    assert read_params(data, walk(data)) == params


def test_the_budgets_it_lists_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+(?: \w+)?) \| ([\d,]+(?: \w+)?) \|", PAGE, re.MULTILINE)
    defaults = ModuleLimits().wire()
    assert {name: number(default) for name, default, _ in rows} == defaults
    for name, _, most in rows:
        field = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower().replace("_per_second", "_per_s")
        assert number(most) == getattr(LIMITS, field), name


def test_the_other_figures_are_those_of_the_code() -> None:
    assert f"{RACK.module_call_fuel:,}" in PAGE
    assert f"have {RACK.module_start_fuel:,} together" in PAGE
    assert f"{RACK.module_log_bytes:,} bytes" in PAGE
    assert f"over {RACK.module_logs_per_s} a second" in PAGE
    assert f"1 to {RACK.module_out_chars} of" in PAGE
    assert f"at most {RACK.module_outputs} different ones" in PAGE
    assert f"at most {RACK.module_data_items:,} items" in PAGE
    assert f"⌊rate / {RACK.module_blocks_per_s}⌋" in PAGE
    assert f"within {RACK.module_strike_window:g} s stops" in PAGE
    assert RACK.module_strikes == 3
    assert "the third within" in PAGE
    assert RACK.module_epoch_least == 0.2
    assert RACK.module_wait_share == 0.5
    assert f"{LIMITS.stack_bytes >> 10} KiB" in PAGE
    assert f"{LIMITS.max_module_bytes >> 20} MiB and {LIMITS.max_sections} sections" in PAGE
    assert f"at most {LIMITS.max_params} maps, {LIMITS.max_params_bytes >> 10} KiB" in PAGE


def test_every_import_and_capability_is_listed() -> None:
    for name, capability in IMPORTS.items():
        assert re.search(rf"^\| `{name}` \| `[^`]+` \| `{capability.value}` \|", PAGE, re.MULTILINE), name
    for capability in Capability:
        assert f"`{capability.value}`" in PAGE


def test_every_verdict_on_an_interface_is_listed() -> None:
    source = (Path(__file__).parents[3] / "shared" / "stagebox" / "modules" / "interface.py").read_text(
        "utf-8"
    )
    codes = set(re.findall(r'ModuleError\(\s*"(\w+)"', source))
    assert len(codes) > 8
    for code in codes:
        assert f"`{code}`" in PAGE, code


def test_every_fault_of_a_guest_is_listed() -> None:
    hosting = Path(__file__).parents[3] / "rack" / "stagebox_rack" / "modules" / "hosting"
    sources = "".join(path.read_text("utf-8") for path in sorted(hosting.glob("*.py")))
    codes = {"trap", *re.findall(r'GuestFault\(\s*"(\w+)"', sources)}
    assert len(codes) > 10
    for code in sorted(codes):
        assert f"`{code}`" in PAGE, code
