"""The Wasm engine as both ends set it up: what compiles a module and what runs it must agree to the letter.

Only core Wasm with one 32-bit memory, and the extensions that compilers emit by default: SIMD, bulk memory, several
values, sign extension, tables of functions. No threads, no 64-bit or second memory, no components, no garbage
collector, no exceptions, no tail calls, no relaxed SIMD. Every block is paid for in fuel; the epoch is for liveness
only. wasmtime is imported when an engine is made, and not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stagebox.modules.limits import LIMITS

if TYPE_CHECKING:
    import wasmtime

_OFF = (
    "wasm_threads",
    "shared_memory",
    "wasm_memory64",
    "wasm_multi_memory",
    "wasm_component_model",
    "wasm_gc",
    "gc_support",
    "wasm_function_references",
    "wasm_exceptions",
    "wasm_stack_switching",
    "wasm_tail_call",
    "wasm_relaxed_simd",
    "wasm_wide_arithmetic",
    "wasm_custom_page_sizes",
    "parallel_compilation",  # one thread compiles, so the limits of a process bound it
    "memory_init_cow",  # its image is a file, and hosts may not make any
    "memory_may_move",  # a memory grows within the address space that was reserved for it
)


PORTABLE = "pulley64"


def make_engine(*, portable: bool = False) -> wasmtime.Engine:
    """Return a new engine; a ``portable`` one makes code for an interpreter, and needs no executable memory to do so.

    Raises:
        ImportError: wasmtime is not installed.
    """
    import wasmtime

    config = wasmtime.Config()
    for name in _OFF:
        setattr(config, name, False)
    config.consume_fuel = True
    config.epoch_interruption = True
    config.max_wasm_stack = LIMITS.stack_bytes
    if portable:
        config.target = PORTABLE
    return wasmtime.Engine(config)
