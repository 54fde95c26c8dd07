"""What a module may import and must export: judged from its bytes, for modules of real assemblers and compilers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from stagebox.errors import ModuleError
from stagebox.modules.capabilities import Capability
from stagebox.modules.interface import Interface, Kind, check_interface, read_interface
from stagebox.modules.limits import LIMITS
from stagebox.modules.params import Param
from stagebox.modules.statement import PAGE_BYTES, ModuleLimits
from stagebox.modules.walker import walk
from support.modules import GAIN_PARAM, assemble, unsigned_module

AUDIO = (Capability.AUDIO,)
TELEMETRY = (Capability.TELEMETRY,)
EVERYTHING = tuple(Capability)
MEMORY = '(memory (export "memory") 1 2)'
INIT = '(func (export "init") (param i32 i32 i32) (result i32) (i32.const 0))'
ASKED = "(result i32) (i32.const 0))"
AUDIO_FUNCS = f"""
  (func (export "in_ptr") {ASKED}
  (func (export "out_ptr") {ASKED}
  (func (export "process") (param i32) (result i32) (local.get 0))
"""
TELEMETRY_FUNCS = f"""
  (func (export "record_ptr") {ASKED}
  (func (export "record_capacity") {ASKED}
  (func (export "record") (param i32 i32 i32) (result i32) (i32.const 0))
"""
EMIT = '(import "stagebox" "emit" (func (param i32 i32 i32 i32) (result i32)))'
LOG = '(import "stagebox" "log" (func (param i32 i32 i32)))'
NOW = '(import "stagebox" "now" (func (result i64)))'


def audio(
    *extra: str, memory: str = MEMORY, init: str = INIT, functions: str = AUDIO_FUNCS, imports: str = ""
) -> str:
    return f"(module {imports} {memory} {init} {functions} {' '.join(extra)})"


def interface_of(wasm: bytes) -> Interface:
    return read_interface(wasm, walk(wasm))


def check(
    wat: str | bytes,
    granted: Collection[Capability] = AUDIO,
    limits: ModuleLimits | None = None,
    params: Collection[Param] = (),
) -> Interface:
    wasm = wat if isinstance(wat, bytes) else assemble(wat)
    found = interface_of(wasm)
    check_interface(found, granted, limits or ModuleLimits(), params)
    return found


def refusal(
    wat: str | bytes,
    granted: Collection[Capability] = AUDIO,
    limits: ModuleLimits | None = None,
    params: Collection[Param] = (),
) -> str:
    with pytest.raises(ModuleError) as refused:
        check(wat, granted, limits, params)
    return refused.value.code


# --- what is accepted -------------------------------------------------------------------------------------


def test_an_audio_module_is_accepted() -> None:
    found = check(audio())
    assert set(found.exports) == {"memory", "init", "in_ptr", "out_ptr", "process"}
    assert str(found.exports["init"].type) == "(i32 i32 i32) -> (i32)"
    assert found.exports["memory"].kind is Kind.MEMORY
    assert [(memory.minimum, memory.maximum) for memory in found.memories] == [(1, 2)]


def test_the_gain_module_is_accepted_with_its_parameter() -> None:
    assert check(unsigned_module(), params=(GAIN_PARAM,)).imports == ()


def test_a_telemetry_module_is_accepted() -> None:
    check(audio(functions=TELEMETRY_FUNCS), TELEMETRY)


def test_a_module_for_both_is_accepted() -> None:
    check(audio(TELEMETRY_FUNCS), (*AUDIO, *TELEMETRY))


def test_every_import_is_accepted_if_it_is_granted() -> None:
    found = check(
        audio(imports=EMIT + LOG + NOW), (*AUDIO, Capability.EMIT, Capability.LOG, Capability.CLOCK)
    )
    assert [(item.module, item.name) for item in found.imports] == [
        ("stagebox", "emit"), ("stagebox", "log"), ("stagebox", "now"),
    ]  # fmt: skip


def test_exports_are_found_behind_imported_functions() -> None:
    found = check(audio(imports=NOW), (Capability.AUDIO, Capability.CLOCK))
    assert str(found.exports["process"].type) == "(i32) -> (i32)"


def test_a_start_function_is_allowed() -> None:
    check(audio("(func $go) (start $go)"))


def test_what_the_host_calls_if_it_is_there_is_allowed() -> None:
    check(audio('(func (export "_initialize"))', '(func (export "close"))'))


def test_exports_that_nobody_calls_are_allowed() -> None:
    check(
        audio(
            '(func (export "version") (result i64) (i64.const 1))', '(global (export "g") i32 (i32.const 1))'
        )
    )


def test_tables_elements_and_data_are_allowed() -> None:
    check(audio("(table 4 4 funcref)", "(func $f) (elem (i32.const 0) $f)", '(data (i32.const 0) "abc")'))


def test_globals_of_all_constants_are_read_over() -> None:
    check(
        audio(
            "(global $a i32 (i32.const -5))",
            "(global i64 (i64.const -9223372036854775808))",
            "(global f32 (f32.const 0.1)) (global (mut f64) (f64.const 0.1))",
            "(global v128 (v128.const i32x4 11 11 11 11))",
            "(global funcref (ref.null func)) (global externref (ref.null extern))",
            "(func $f) (global funcref (ref.func $f))",
            "(global i32 (i32.mul (i32.add (global.get $a) (i32.const 1)) (i32.const 11)))",
        )
    )


# --- imports ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("item", "capability"), [(EMIT, "emit"), (LOG, "log"), (NOW, "clock")])
def test_an_import_that_is_not_granted_is_refused(item: str, capability: str) -> None:
    rest = [granted for granted in EVERYTHING if granted != capability]
    assert refusal(audio(TELEMETRY_FUNCS, imports=item), rest) == "import_not_granted"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("wasi_snapshot_preview1", "fd_write"),
        ("wasi_snapshot_preview1", "random_get"),
        ("env", "memcpy"),
        ("env", "emit"),
        ("", ""),
        ("stagebox", "Emit"),
        ("stagebox", "random"),
        ("stagebox\\00", "emit"),
    ],
)
def test_an_import_that_there_is_not_is_refused(module: str, name: str) -> None:
    assert refusal(audio(imports=f'(import "{module}" "{name}" (func))'), EVERYTHING) == "unknown_import"


@pytest.mark.parametrize(
    "kind", ["(memory 1 1)", "(table 1 1 funcref)", "(global i32)", "(global (mut i64))"]
)
def test_an_import_that_is_no_function_is_refused(kind: str) -> None:
    wat = audio(imports=f'(import "stagebox" "emit" {kind})')
    assert refusal(wat, EVERYTHING) == "import_kind"


def test_an_imported_memory_is_refused_also_if_it_is_exported_again() -> None:
    wat = audio(imports='(import "env" "memory" (memory 1 1))', memory='(export "memory" (memory 0))')
    assert refusal(wat) == "import_kind"


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("emit", "(func (param i32 i32 i32 i32))"),
        ("emit", "(func (param i32 i32 i32) (result i32))"),
        ("emit", "(func (param i64 i32 i32 i32) (result i32))"),
        ("log", "(func (param i32 i32 i32) (result i32))"),
        ("log", "(func)"),
        ("now", "(func (result i32))"),
        ("now", "(func (param i32) (result i64))"),
        ("now", "(func (result i64 i64))"),
    ],
)
def test_an_import_of_another_type_is_refused(name: str, signature: str) -> None:
    assert refusal(audio(imports=f'(import "stagebox" "{name}" {signature})'), EVERYTHING) == "import_type"


def test_imports_over_the_limit_are_refused() -> None:
    assert refusal(audio(imports=NOW * LIMITS.max_imports), EVERYTHING[:1]) == "import_not_granted"
    assert refusal(audio(imports=NOW * (LIMITS.max_imports + 1)), EVERYTHING) == "too_many_items"


# --- memory and tables ------------------------------------------------------------------------------------


def test_a_module_without_a_memory_is_refused() -> None:
    assert refusal(audio(memory="")) == "memory_missing"


def test_a_memory_without_a_maximum_is_refused() -> None:
    assert refusal(audio(memory='(memory (export "memory") 1)')) == "memory_unbounded"


def test_a_memory_over_what_is_granted_is_refused() -> None:
    limits = ModuleLimits(memory_bytes=2 * PAGE_BYTES)
    check(audio(), limits=limits)
    assert refusal(audio(), limits=ModuleLimits(memory_bytes=2 * PAGE_BYTES - 1)) == "memory_too_large"


def test_a_memory_of_four_gibibytes_is_refused() -> None:
    assert refusal(audio(memory='(memory (export "memory") 1 65536)')) == "memory_too_large"


def test_a_memory_that_is_not_exported_is_refused() -> None:
    assert refusal(audio(memory="(memory 1 2)")) == "export_missing"


def test_something_else_exported_as_memory_is_refused() -> None:
    assert refusal(audio('(func (export "memory"))', memory="(memory 1 2)")) == "export_type"


def test_a_64_bit_memory_is_refused() -> None:
    assert refusal(audio(memory='(memory (export "memory") i64 1 2)')) == "memory64"


def test_a_shared_memory_is_refused() -> None:
    assert refusal(audio(memory='(memory (export "memory") 1 2 shared)')) == "shared_memory"


def test_a_shared_64_bit_memory_is_refused() -> None:
    assert refusal(audio(memory='(memory (export "memory") i64 1 2 shared)')) == "memory64"


def test_two_memories_are_refused() -> None:
    assert refusal(audio("(memory 1 1)")) == "multiple_memories"


def test_a_table_over_what_is_granted_is_refused() -> None:
    limits = ModuleLimits(table_elements=8)
    check(audio("(table 8 8 funcref)"), limits=limits)
    assert refusal(audio("(table 9 funcref)"), limits=limits) == "table_too_large"
    assert refusal(audio("(table 1 9 funcref)"), limits=limits) == "table_too_large"
    assert refusal(audio("(table 4 4 funcref) (table 5 5 externref)"), limits=limits) == "table_too_large"


def test_a_table_without_a_maximum_is_left_to_the_host() -> None:
    check(audio("(table 1 funcref)"))
    check(audio("(table 0 funcref)"), limits=ModuleLimits(table_elements=0))


@pytest.mark.parametrize(
    "tables",
    [
        "(table 0 funcref)" * 60,
        "(table 0 funcref) (table 0 externref)",
        "(table 0 funcref) (table 1 1 funcref)",
        "(table 0 20 funcref)" * 60,
    ],
)
def test_tables_that_grow_one_by_one_cannot_grow_beyond_what_is_granted(tables: str) -> None:
    assert refusal(audio(tables), limits=ModuleLimits(table_elements=20)) == "table_too_large"


def test_a_64_bit_table_is_refused() -> None:
    assert refusal(audio("(table i64 1 1 funcref)")) == "unknown_type"


def test_exception_tags_are_refused() -> None:
    assert refusal(audio("(tag (param i32))")) == "tags"
    assert refusal(audio(imports='(import "stagebox" "emit" (tag))'), EVERYTHING) == "tags"


# --- exports ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["init", "in_ptr", "out_ptr", "process"])
def test_an_audio_module_without_an_export_is_refused(name: str) -> None:
    assert refusal(audio().replace(f'"{name}"', f'"{name}_"')) == "export_missing"


@pytest.mark.parametrize("name", ["init", "record_ptr", "record_capacity", "record"])
def test_a_telemetry_module_without_an_export_is_refused(name: str) -> None:
    wat = audio(functions=TELEMETRY_FUNCS).replace(f'"{name}"', f'"{name}_"')
    assert refusal(wat, TELEMETRY) == "export_missing"


def test_a_module_of_one_purpose_is_not_granted_the_other() -> None:
    assert refusal(audio(), TELEMETRY) == "export_missing"
    assert refusal(audio(functions=TELEMETRY_FUNCS), AUDIO) == "export_missing"


def test_a_module_that_is_granted_no_purpose_is_refused() -> None:
    assert refusal(audio(), ()) == "nothing_granted"
    assert refusal(audio(), (Capability.EMIT, Capability.LOG, Capability.CLOCK)) == "nothing_granted"


def test_parameters_need_a_function_that_takes_them() -> None:
    assert refusal(audio(), params=(GAIN_PARAM,)) == "export_missing"


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("init", "(param i32 i32) (result i32) (i32.const 0)"),
        ("init", "(param i32 i32 i32)"),
        ("init", "(param f32 i32 i32) (result i32) (i32.const 0)"),
        ("in_ptr", "(result i64) (i64.const 0)"),
        ("out_ptr", "(param i32) (result i32) (i32.const 0)"),
        ("process", "(param i32 i32) (result i32) (i32.const 0)"),
        ("process", "(param i32) (result i32 i32) (i32.const 0) (i32.const 0)"),
        ("_initialize", "(result i32) (i32.const 0)"),
        ("close", "(param i32)"),
        ("param", "(param i32 f64) (result i32) (i32.const 0)"),
    ],
)
def test_an_export_of_another_type_is_refused(name: str, signature: str) -> None:
    others = audio().replace(f'(export "{name}")', "")
    assert refusal(f'{others[:-1]} (func (export "{name}") {signature}))') == "export_type"


def test_an_export_of_another_kind_is_refused() -> None:
    wat = audio().replace('(export "process")', "")
    assert refusal(f'{wat[:-1]} (global (export "process") i32 (i32.const 0)))') == "export_type"


# --- a real compiler --------------------------------------------------------------------------------------


def test_a_module_that_a_c_compiler_made_is_accepted(tmp_path: Path) -> None:
    source = tmp_path / "gain.c"
    source.write_text(
        "#define E(n) __attribute__((export_name(#n)))\n"
        "static float in[8192], out[8192], gain = 1; static int c, m;\n"
        "E(init) int init(int rate, int channels, int max) { c = channels; m = max; return c * m > 8192; }\n"
        "E(in_ptr) float *in_ptr(void) { return in; }\n"
        "E(out_ptr) float *out_ptr(void) { return out; }\n"
        "E(param) int param(int id, float value) { gain = value; return id; }\n"
        "E(process) int process(int n) {\n"
        "  for (int k = 0; k < c; k++) for (int i = 0; i < n; i++) out[k * m + i] = gain * in[k * m + i];\n"
        "  return n; }\n"
    )
    target = tmp_path / "gain.wasm"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding", "-O2", "-nostdlib",
               "-Wl,--no-entry", "-Wl,--max-memory=2097152", str(source), "-o", str(target)]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = check(target.read_bytes(), params=(GAIN_PARAM,))
    assert found.memories[0].maximum == 32
