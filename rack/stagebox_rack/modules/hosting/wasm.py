"""The engine's C interface as hosts use it: cached calls, checked exports, traps as faults.

wasmtime-py's own calls build their types anew each time, which costs more than the block. What is bound here takes
ready ctypes objects and is unchecked: the type of an export is compared to what the ABI says before it is ever called.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import wasmtime
from wasmtime import _ffi as ffi
from wasmtime._func import maybe_raise_last_exn

from stagebox.modules.engine import make_engine
from stagebox_rack.limits import LIMITS

VALUE_BYTES = 16  # of one wasmtime_val_raw_t
I32, I64, F32 = wasmtime.ValType.i32(), wasmtime.ValType.i64(), wasmtime.ValType.f32()
Types = tuple[Sequence[wasmtime.ValType], Sequence[wasmtime.ValType]]

_ASKED: Types = ((), (I32,))
ABI: dict[str, Types] = {
    "_initialize": ((), ()),
    "close": ((), ()),
    "init": ((I32, I32, I32), (I32,)),
    "param": ((I32, F32), (I32,)),
    "in_ptr": _ASKED,
    "out_ptr": _ASKED,
    "process": ((I32,), (I32,)),
    "record_ptr": _ASKED,
    "record_capacity": _ASKED,
    "record": ((I32, I32, I32), (I32,)),
}
"""The functions of ABI v1, with the types of their parameters and results."""

_BUDGET = {wasmtime.TrapCode.OUT_OF_FUEL: "out_of_fuel", wasmtime.TrapCode.INTERRUPT: "too_slow"}


def _function(name: str, result: Any, *, quick: bool = True) -> Callable[..., Any]:
    """Return a C function that takes ready ctypes objects; only a ``quick`` one keeps the interpreter's lock."""
    library = ctypes.PyDLL(ffi.dll._name) if quick else ctypes.CDLL(ffi.dll._name)
    found = getattr(library, name)
    found.restype = result
    called: Callable[..., Any] = found
    return called


call = _function("wasmtime_func_call_unchecked", ctypes.c_void_p, quick=False)
set_fuel = _function("wasmtime_context_set_fuel", ctypes.c_void_p)
get_fuel = _function("wasmtime_context_get_fuel", ctypes.c_void_p)
set_deadline = _function("wasmtime_context_set_epoch_deadline", None)
memory_data = _function("wasmtime_memory_data", ctypes.c_void_p)
memory_size = _function("wasmtime_memory_data_size", ctypes.c_size_t)
move = ctypes.PyDLL(None).memmove
move.restype = None


class GuestFault(Exception):
    """An instance did what it must not; it is not called any more. ``reason`` may hold anything a stranger wrote."""

    def __init__(self, code: str, reason: str, *, over_budget: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason[: LIMITS.module_fault_chars]
        self.over_budget = over_budget

    def within(self, where: str) -> GuestFault:
        """Return it as a fault of the function ``where``."""
        return GuestFault(self.code, f"{where}: {self.reason}", over_budget=self.over_budget)


class GuestEngine:
    """The engine of one host, and the ticks of its epoch. :meth:`tick` is for a thread of its own."""

    def __init__(self) -> None:
        self.engine = make_engine()
        self.ticks = 0

    def tick(self) -> None:
        """Let the epoch go on."""
        self.engine.increment_epoch()
        self.ticks += 1

    def load(self, native: bytes) -> wasmtime.Module:
        """Return the module of native code that our own compiler just made.

        Raises:
            GuestFault: it is of another engine.
        """
        try:
            return wasmtime.Module.deserialize(self.engine, native)
        except wasmtime.WasmtimeError as error:
            raise GuestFault("does_not_load", str(error)) from None


class Export:
    """An exported function of the right type, ready to be called; ``ints`` and ``floats`` are its values."""

    INTS = VALUE_BYTES // 4
    """How far apart values are in ``ints`` and ``floats``."""

    def __init__(self, function: wasmtime.Func, values: int) -> None:
        self._function = function  # what ``pointer`` points into
        self.pointer = ctypes.c_void_p(ctypes.addressof(function._func))
        self._raw = (ctypes.c_uint8 * (VALUE_BYTES * max(1, values)))()
        self.values = ctypes.c_void_p(ctypes.addressof(self._raw))
        self.count = ctypes.c_size_t(max(1, values))
        view = memoryview(self._raw).cast("B")
        self.ints = view.cast("i")
        self.floats = view.cast("f")


def find_export(store: wasmtime.Store, exports: Any, name: str) -> Export | None:
    """Return the ABI's function ``name``; None if there is none.

    Raises:
        GuestFault: it is no function, or of another type.
    """
    found = exports.get(name)
    if found is None:
        return None
    if not isinstance(found, wasmtime.Func):
        raise GuestFault("export_type", f"{name!r} is not a function")
    params, results = ABI[name]
    type_ = found.type(store)
    if list(type_.params) != list(params) or list(type_.results) != list(results):
        raise GuestFault("export_type", f"{name!r} is not of the type that the ABI says")
    return Export(found, max(len(params), len(results)))


def fault_of(trap: wasmtime.Trap, where: str) -> GuestFault:
    """Return what a trap in the function ``where`` means."""
    code = trap.trap_code
    reason = f"{where}: {trap.message}"
    if code in _BUDGET:
        return GuestFault(_BUDGET[code], reason, over_budget=True)
    return GuestFault("trap" if code is None else code.name.lower(), reason)


def raise_failure(error: int | None, trap: ctypes.c_void_p, where: str) -> NoReturn:
    """Raise what a call returned as ``error`` or left in ``trap``; both are freed, and ``trap`` is empty then.

    Raises:
        GuestFault: always.
    """
    pointer, trap.value = trap.value, None
    if pointer is not None:
        found = wasmtime.Trap._from_ptr(ctypes.cast(pointer, ctypes.POINTER(ffi.wasm_trap_t)))
        fault = fault_of(found, where)
    else:
        failed = wasmtime.WasmtimeError._from_ptr(
            ctypes.cast(error or 0, ctypes.POINTER(ffi.wasmtime_error_t))
        )
        fault = GuestFault("engine_error", f"{where}: {failed}")
    try:
        maybe_raise_last_exn()  # what a call of the host raised: kept, it would come up at another guest's failure
    except GuestFault as raised:
        fault = raised.within(where)
    except Exception as raised:
        fault = GuestFault("host_error", f"{where}: {raised!r}")
    raise fault
