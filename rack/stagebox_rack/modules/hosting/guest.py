"""One instance of a module in its own store: the only file that runs a stranger's code.

Rules:

* what every block needs goes through the cached calls of `wasm.py`;
* fuel is set before every call and is the budget; the epoch's deadline is set anew when the epoch moved on, and only
  catches what fuel does not: it is wall-clock;
* no view of guest memory is kept: base and length are asked for, and data is copied. A memory does not move (see
  `stagebox.modules.engine`) and never shrinks, so buffers whose bounds were checked after `init` stay inside;
* after a trap an instance could still be called, and would be in any state: :class:`GuestFault` means throw it away;
* what the guest calls never raises into the engine, and costs fuel as if the guest had done the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import time
from collections.abc import Mapping

import wasmtime

from stagebox.modules.capabilities import IMPORT_MODULE, Capability
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting import wasm
from stagebox_rack.modules.hosting.calls import MALFORMED, GuestCalls
from stagebox_rack.modules.hosting.spec import InstanceSpec
from stagebox_rack.modules.hosting.wasm import I32, I64, Export, GuestEngine, GuestFault

_SAMPLE = 4


class Guest:
    """One instance. Every method but :meth:`close` may raise :class:`GuestFault`."""

    def __init__(
        self,
        engine: GuestEngine,
        module: wasmtime.Module,
        spec: InstanceSpec,
        params: Mapping[int, float],
        calls: GuestCalls,
    ) -> None:
        """Instantiate, call ``_initialize`` and ``init``, and set ``params``.

        Raises:
            GuestFault: it does not start.
        """
        self.spec = spec
        self.blocks = self.fuel = self.fuel_most = self.time_ns = self.time_most_ns = 0
        self._engine = engine
        limits = spec.limits
        self._ticks = 1 + math.ceil(
            max(limits.epoch_ms / 1000, LIMITS.module_epoch_least) / LIMITS.module_tick
        )
        self._deadline = ctypes.c_uint64(self._ticks)
        self._armed = -1
        self._block_fuel = ctypes.c_uint64(limits.fuel_per_block)
        self._left = ctypes.c_uint64()
        self._left_at = ctypes.c_void_p(ctypes.addressof(self._left))
        self._trap = ctypes.c_void_p()
        self._trap_at = ctypes.c_void_p(ctypes.addressof(self._trap))
        self._base = -1
        self._store = wasmtime.Store(engine.engine)
        try:
            self._store.set_limits(limits.memory_bytes, limits.table_elements, 1, -1, 1)
            self._context = ctypes.c_void_p(ctypes.cast(self._store._context(), ctypes.c_void_p).value)
            self._start(module, params, calls)
        except BaseException:
            self._store.close()
            raise

    def process(self, source: ctypes.c_void_p, target: ctypes.c_void_p, frames: int) -> None:
        """Copy a block from ``source``, let it be processed, and copy what comes out to ``target``.

        Both are planar float32[channels, block] of which the first ``frames`` of each channel count.
        """
        context, process = self._context, self._process
        begun = time.perf_counter_ns()
        wasm.set_fuel(context, self._block_fuel)
        if self._armed != self._engine.ticks:
            self._arm()
        base = wasm.memory_data(context, self._memory_at)
        if base != self._base:
            self._find(base)
        wasm.move(self._in, source, self._size)
        process.ints[0] = frames
        error = wasm.call(context, process.pointer, process.values, process.count, self._trap_at)
        if error or self._trap.value:
            wasm.raise_failure(error, self._trap, "process")
        if process.ints[0] != frames:
            raise GuestFault("short_output", f"process returned {process.ints[0]} for {frames} frames")
        wasm.move(target, self._out, self._size)
        wasm.get_fuel(context, self._left_at)
        self._count(self.spec.limits.fuel_per_block - self._left.value, time.perf_counter_ns() - begun)

    def param(self, number: int, value: float) -> None:
        """Set a parameter."""
        self._fill(self.spec.limits.fuel_per_block)
        self._set(number, value)

    def record(self, kind: int, subject: bytes, record: bytes) -> bool:
        """Give it a record; False if it has no room for one that large."""
        size = len(subject) + len(record)
        if size > self._capacity:
            return False
        begun = time.perf_counter_ns()
        self._fill(self.spec.limits.fuel_per_block)
        ctypes.memmove(self._memory_base() + self._record_at, subject + record, size)
        result = self._int("record", kind, len(subject), len(record))
        if result:
            raise GuestFault("record_refused", f"record returned {result}")
        wasm.get_fuel(self._context, self._left_at)
        self._count(self.spec.limits.fuel_per_block - self._left.value, time.perf_counter_ns() - begun)
        return True

    def close(self, *, tell: bool) -> None:
        """Throw it away, with a last word of its own if ``tell``."""
        if tell and "close" in self._exports:
            try:
                self._fill(self.spec.limits.fuel_per_block)
                self._invoke("close")
            except GuestFault:
                pass  # it goes anyway
        self._store.close()

    # --- starting ------------------------------------------------------------------------------------

    def _start(self, module: wasmtime.Module, params: Mapping[int, float], calls: GuestCalls) -> None:
        spec = self.spec
        self._fill(LIMITS.module_start_fuel)
        try:
            linker = wasmtime.Linker(self._engine.engine)
            self._link(linker, calls)
            instance = linker.instantiate(self._store, module)
        except wasmtime.Trap as trap:
            raise wasm.fault_of(trap, "start") from None
        except GuestFault as fault:
            raise fault.within("start") from None
        except wasmtime.WasmtimeError as error:
            raise GuestFault("does_not_start", str(error)) from None
        exports = instance.exports(self._store)
        memory = exports.get("memory")
        if not isinstance(memory, wasmtime.Memory):
            raise GuestFault("export_missing", "there is no memory 'memory'")
        self._memory = memory
        self._memory_at = ctypes.c_void_p(ctypes.addressof(memory._memory))
        found = {name: wasm.find_export(self._store, exports, name) for name in wasm.ABI}
        self._exports = {name: export for name, export in found.items() if export is not None}
        if "_initialize" in self._exports:
            self._invoke("_initialize")
        if result := self._int("init", spec.rate, spec.channels, spec.block):
            raise GuestFault("init_refused", f"init returned {result}")
        if Capability.AUDIO in spec.granted and spec.block:
            self._ask_buffers()
        elif Capability.TELEMETRY in spec.granted:
            self._ask_record()
        else:
            raise GuestFault("nothing_granted", "it is granted neither audio nor telemetry here")
        for number, value in params.items():
            self._set(number, value)

    def _ask_buffers(self) -> None:
        self._process = self._need("process")
        self._size = ctypes.c_size_t(self.spec.channels * self.spec.block * _SAMPLE)
        self._in_at = self._buffer("in_ptr", self._size.value)
        self._out_at = self._buffer("out_ptr", self._size.value)

    def _ask_record(self) -> None:
        self._need("record")
        self._capacity = self._int("record_capacity") & 0xFFFF_FFFF
        self._record_at = self._buffer("record_ptr", self._capacity, aligned=1)

    def _buffer(self, name: str, size: int, aligned: int = _SAMPLE) -> int:
        """Ask for a buffer, and demand that all of it lies inside the memory."""
        at = self._int(name) & 0xFFFF_FFFF
        if at % aligned or at + size > wasm.memory_size(self._context, self._memory_at):
            raise GuestFault("bad_buffer", f"{name} returned {at}: {size} bytes do not fit there")
        return at

    # --- calling -------------------------------------------------------------------------------------

    def _need(self, name: str) -> Export:
        if name not in self._exports:
            raise GuestFault("export_missing", f"there is no function {name!r}")
        return self._exports[name]

    def _set(self, number: int, value: float) -> None:
        export = self._need("param")
        export.ints[0] = number
        export.floats[Export.INTS] = value
        self._enter("param", export)
        if result := export.ints[0]:
            raise GuestFault("param_refused", f"param({number}, {value:g}) returned {result}")

    def _int(self, name: str, *arguments: int) -> int:
        """Call a function of int32 that returns one."""
        export = self._need(name)
        for index, value in enumerate(arguments):
            export.ints[index * Export.INTS] = value
        self._enter(name, export)
        result: int = export.ints[0]
        return result

    def _invoke(self, name: str) -> None:
        self._enter(name, self._need(name))

    def _enter(self, name: str, export: Export) -> None:
        error = wasm.call(self._context, export.pointer, export.values, export.count, self._trap_at)
        if error or self._trap.value:
            wasm.raise_failure(error, self._trap, name)

    def _fill(self, fuel: int) -> None:
        wasm.set_fuel(self._context, ctypes.c_uint64(fuel))
        self._arm()

    def _arm(self) -> None:
        # Read before it is set: a tick in between makes the deadline later, not earlier.
        self._armed = self._engine.ticks
        wasm.set_deadline(self._context, self._deadline)

    def _find(self, base: int) -> None:
        self._base = base
        self._in = ctypes.c_void_p(base + self._in_at)
        self._out = ctypes.c_void_p(base + self._out_at)

    def _memory_base(self) -> int:
        base: int = wasm.memory_data(self._context, self._memory_at)
        return base

    def _count(self, fuel: int, time_ns: int) -> None:
        self.blocks += 1
        self.fuel += fuel
        self.time_ns += time_ns
        if fuel > self.fuel_most:
            self.fuel_most = fuel
        if time_ns > self.time_most_ns:
            self.time_most_ns = time_ns

    # --- being called --------------------------------------------------------------------------------

    def _link(self, linker: wasmtime.Linker, calls: GuestCalls) -> None:
        granted = self.spec.granted

        def log(caller: wasmtime.Caller, level: int, at: int, size: int) -> None:
            self._charge(caller)
            with contextlib.suppress(Exception):  # only want of fuel ends a guest; a line is lost
                calls.log(level, self._peek(caller, at, min(size & 0xFFFF_FFFF, LIMITS.module_log_bytes)))

        def emit(caller: wasmtime.Caller, out_at: int, out_size: int, at: int, size: int) -> int:
            self._charge(caller)
            try:
                most = self.spec.limits.record_bytes
                if size & 0xFFFF_FFFF > most or out_size & 0xFFFF_FFFF > LIMITS.module_out_chars:
                    return MALFORMED
                return calls.emit(self._peek(caller, out_at, out_size), self._peek(caller, at, size))
            except Exception:  # only want of fuel ends a guest; it is told
                return MALFORMED

        def now(caller: wasmtime.Caller) -> int:
            self._charge(caller)
            return calls.now()

        for capability, name, type_, called in (
            (Capability.LOG, "log", wasmtime.FuncType([I32, I32, I32], []), log),
            (Capability.EMIT, "emit", wasmtime.FuncType([I32] * 4, [I32]), emit),
            (Capability.CLOCK, "now", wasmtime.FuncType([], [I64]), now),
        ):
            if capability in granted:
                linker.define_func(IMPORT_MODULE, name, type_, called, access_caller=True)

    def _charge(self, caller: wasmtime.Caller) -> None:
        """Take what a call costs.

        Raises:
            GuestFault: it has less. The engine itself looks at the fuel in loops and where a function begins, so a long
                row of calls would go on without any.
        """
        context = ctypes.cast(caller._context(), ctypes.c_void_p)
        wasm.get_fuel(context, self._left_at)
        if self._left.value < LIMITS.module_call_fuel:
            raise GuestFault(
                "out_of_fuel", "what is left does not pay for a call of the host", over_budget=True
            )
        wasm.set_fuel(context, ctypes.c_uint64(self._left.value - LIMITS.module_call_fuel))

    @staticmethod
    def _peek(caller: wasmtime.Caller, at: int, size: int) -> bytes:
        """Copy bytes of the guest's memory.

        Raises:
            ValueError: they are not inside.
        """
        memory = caller.get("memory")
        at &= 0xFFFF_FFFF
        if not isinstance(memory, wasmtime.Memory) or at + size > memory.data_len(caller):
            raise ValueError("outside of the memory")
        return ctypes.string_at(ctypes.addressof(memory.data_ptr(caller).contents) + at, size)
