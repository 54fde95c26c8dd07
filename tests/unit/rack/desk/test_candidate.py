from __future__ import annotations

from pathlib import Path

import pytest

from stagebox.errors import InputError, ModuleError
from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.desk.candidate import open_candidate
from support.modules import assemble, countersigned_module, gain_wat, signed_module, unsigned_module

MANIFEST = """
name = "acme-gain"
version = "2.0.0"
capabilities = ["audio", "log"]

[build]
language = "wat"
sources = ["gain.wat"]
output = "build/gain.wasm"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "build").mkdir()
    return tmp_path / "build" / "gain.wasm"


def test_what_the_cluster_granted_is_what_the_module_runs_with(file: Path) -> None:
    file.write_bytes(countersigned_module(limits=ModuleLimits(fuel_per_block=77_000)))
    found = open_candidate(file, {"gain": 2.0})
    assert (found.name, found.version) == ("gain", "1.0.0")
    assert found.granted == {Capability.AUDIO}
    assert found.limits.fuel_per_block == 77_000
    assert found.values == {0: 2.0}
    assert found.origin == "countersigned by flux-test, unverified"
    assert open_candidate(file, {}, fuel=5).limits.fuel_per_block == 5


def test_a_vendors_word_counts_when_no_cluster_has_spoken(file: Path) -> None:
    file.write_bytes(signed_module(name="acme-eq", version="3.1.0"))
    found = open_candidate(file, {})
    assert (found.name, found.version, found.origin) == (
        "acme-eq",
        "3.1.0",
        "signed by tone-works, unverified",
    )
    assert (found.limits, found.values) == (ModuleLimits(), {0: 1.0})


def test_an_unsigned_module_is_what_its_manifest_says(file: Path) -> None:
    file.write_bytes(unsigned_module())
    (file.parent.parent / "module.toml").write_text(MANIFEST)
    found = open_candidate(file, {})
    assert (found.name, found.version, found.origin) == ("acme-gain", "2.0.0", "unsigned")
    assert found.granted == {Capability.AUDIO, Capability.LOG}


def test_a_manifest_above_counts_for_the_file_it_builds_only(file: Path) -> None:
    (file.parent.parent / "module.toml").write_text(MANIFEST)
    other = file.with_name("other.wasm")
    other.write_bytes(unsigned_module())
    found = open_candidate(other, {})
    assert (found.name, found.origin) == ("module", "unsigned, without module.toml")
    assert found.granted == {Capability.AUDIO}


def test_without_any_word_a_module_gets_what_it_imports(file: Path) -> None:
    imports = '(import "stagebox" "now" (func (result i64)))'
    file.write_bytes(unsigned_module(gain_wat(imports=imports)))
    assert open_candidate(file, {}).granted == {Capability.AUDIO, Capability.CLOCK}


def test_what_a_rack_would_not_compile_is_not_run_either(file: Path) -> None:
    file.write_bytes(unsigned_module(gain_wat(imports='(import "wasi_snapshot_preview1" "fd_write" (func))')))
    with pytest.raises(ModuleError) as refused:
        open_candidate(file, {})
    assert refused.value.code == "unknown_import"
    assert refused.value.message.startswith(f"{file}: ")
    file.write_bytes(assemble("(module)"))
    with pytest.raises(ModuleError, match="nothing_granted"):
        open_candidate(file, {})


def test_a_value_that_is_no_parameters_is_refused(file: Path) -> None:
    file.write_bytes(unsigned_module())
    with pytest.raises(InputError, match="no parameter 'level'"):
        open_candidate(file, {"level": 1.0})
    with pytest.raises(InputError, match=r"its range is 0\.0 to 4\.0"):
        open_candidate(file, {"gain": 5.0})
