"""The compiler's process: bounded in time and memory, told exactly the bytes it was given, and never text."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from stagebox.errors import ModuleError
from stagebox.modules.compiling import compile_module
from stagebox.modules.engine import make_engine
from stagebox.modules.limits import LIMITS
from stagebox.modules.sealed import read_whole, sealed
from support.modules import assemble, gain_wat


def large_wat(functions: int) -> str:
    body = "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const 7)) (local.get 0)))" * 50
    return "(module " + f"(func (param i32) (result i32) {body} (local.get 0))" * functions + ")"


def refusal(data: bytes, **changes: Any) -> str:
    with pytest.raises(ModuleError) as caught:
        compile_module(data, dataclasses.replace(LIMITS, **changes))
    assert caught.value.code == "does_not_compile"
    return caught.value.message


def test_what_is_compiled_runs() -> None:
    engine = make_engine()
    native = compile_module(assemble('(module (func (export "answer") (result i32) (i32.const 42)))'))
    store = wasmtime.Store(engine)
    store.set_fuel(100)
    store.set_epoch_deadline(1)
    module = wasmtime.Module.deserialize(engine, native)
    answer = wasmtime.Instance(store, module, []).exports(store)["answer"]
    assert isinstance(answer, wasmtime.Func)
    assert answer(store) == 42


@pytest.mark.parametrize(
    "data",
    [
        b"",
        gain_wat().encode(),
        b"\0asm",
        b"\0asm\x02\0\0\0",
        b"\0asm\x0d\0\x01\0",
        b" " + assemble(gain_wat()),
        assemble(gain_wat())[:-1],
        assemble(gain_wat()) + b"\0",
        b"\x7fELF" + bytes(100),
        assemble("(module (memory i64 1))"),
        assemble("(module (memory 1 2 shared))"),
        assemble("(module (func (param externref)))"),
        assemble("(module (func $f (return_call $f)))"),
        assemble(
            "(module (func (param v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))"
        ),
    ],
)
def test_what_is_no_module_of_ours_is_refused_with_a_reason_that_can_be_printed(data: bytes) -> None:
    assert refusal(data).isprintable()


def test_native_code_is_not_taken_for_a_module() -> None:
    native = compile_module(assemble(gain_wat()))
    assert "does not begin" in refusal(native)


def test_a_compiler_that_takes_too_long_is_ended() -> None:
    assert "took more than 0.05 s" in refusal(assemble(large_wat(100)), compile_s=0.05)


def test_a_module_larger_than_allowed_is_not_even_tried() -> None:
    assert "bytes" in refusal(assemble(gain_wat()), max_module_bytes=100)


def test_native_code_larger_than_allowed_is_refused() -> None:
    with pytest.raises(ModuleError, match="too large"):
        compile_module(assemble(gain_wat()), dataclasses.replace(LIMITS, native_bytes=100))


async def test_several_are_compiled_at_once_each_from_its_own_bytes() -> None:
    wats = [f'(module (func (export "n{number}") (result i32) (i32.const {number})))' for number in range(4)]
    made = await asyncio.gather(*(asyncio.to_thread(compile_module, assemble(wat)) for wat in wats))
    engine = make_engine()
    for number, native in enumerate(made):
        module = wasmtime.Module.deserialize(engine, native)
        assert [export.name for export in module.exports] == [f"n{number}"]


def test_sealed_memory_cannot_be_changed_by_anybody() -> None:
    descriptor = sealed("test", b"as it is")
    try:
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 3)
        assert read_whole(descriptor, 100) == b"as it is"
        with pytest.raises(OSError, match="more than"):
            read_whole(descriptor, 3)
    finally:
        os.close(descriptor)


NO_EXECUTABLE_MEMORY = """
import ctypes, sys
if ctypes.CDLL(None).prctl(65, *[ctypes.c_ulong(n) for n in (1, 0, 0, 0)]):
    sys.exit(3)
from stagebox.errors import ModuleError
from stagebox.modules.compiling import compile_module
data = sys.stdin.buffer.read()
compile_module(data, portable=True)
try:
    compile_module(data)
except ModuleError:
    sys.exit(0)
sys.exit(4)
"""


def test_a_service_without_executable_memory_can_still_tell_whether_a_module_compiles(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_EXECUTABLE_MEMORY],
        input=assemble(gain_wat()),
        capture_output=True,
        cwd=tmp_path,
    )
    if done.returncode == 3:
        pytest.skip("this kernel cannot refuse executable memory to one process")
    assert done.returncode == 0, done.stderr.decode()


def test_a_portable_compilation_refuses_what_a_native_one_does() -> None:
    for wat in (
        "(module (memory i64 1))",
        "(module (memory 1 2 shared))",
        "(module (func $f (return_call $f)))",
    ):
        with pytest.raises(ModuleError):
            compile_module(assemble(wat), portable=True)
