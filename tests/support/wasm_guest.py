"""A bare host of ABI v1 over wasmtime: runs one module in this process and keeps what it emits, logs and uses.

For modules that the tests trust. What a rack does around a guest, with limits and a process of its own, is elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import wasmtime

from stagebox.identity import check_name
from stagebox.modules.capabilities import IMPORT_MODULE
from stagebox.modules.engine import make_engine
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.modules.hosting.calls import read_data

BLOCKS_PER_S = 50
PLENTY = 1 << 40
"""Fuel that no test uses up."""
RECORD_BYTES = ModuleLimits().record_bytes

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Emitted:
    """One record: its out name, its data, and the first frame of the block it was made in."""

    out: str
    data: dict[str, Any]
    start: int


@dataclass
class Guest:
    """One instance, initialised and with its parameters set.

    ``blocks`` has the fuel of every block, ``startup`` that of instantiation, ``init`` and ``param`` together.
    """

    data: bytes
    rate: int = 0
    channels: int = 0
    params: Mapping[int, float] = field(default_factory=dict)
    emitted: list[Emitted] = field(default_factory=list)
    logged: list[tuple[int, str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    start: int = 0
    clock: int = 1_767_312_000_000_000_000

    def __post_init__(self) -> None:
        engine = make_engine()
        self.store = wasmtime.Store(engine)
        self.store.set_epoch_deadline(1)
        module = wasmtime.Module(engine, self.data)
        self.imports = {(entry.module, entry.name or "") for entry in module.imports}
        assert all(name == IMPORT_MODULE for name, _ in self.imports), self.imports
        self.max_frames = self.rate // BLOCKS_PER_S
        self.startup = self._count(lambda: self._begin(engine, module))

    def _begin(self, engine: wasmtime.Engine, module: wasmtime.Module) -> None:
        linker = wasmtime.Linker(engine)
        i32, i64 = wasmtime.ValType.i32(), wasmtime.ValType.i64()
        for name, arguments, results, function in (
            ("log", [i32] * 3, [], self._log),
            ("emit", [i32] * 4, [i32], self._emit),
            ("now", [], [i64], lambda: self.clock),
        ):
            if (IMPORT_MODULE, name) in self.imports:
                linker.define_func(IMPORT_MODULE, name, wasmtime.FuncType(arguments, results), function)
        self.store.set_fuel(PLENTY)
        self.exports = linker.instantiate(self.store, module).exports(self.store)
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        self.memory = memory
        if "_initialize" in self.exports:
            self.call("_initialize")
        ready = self.call("init", self.rate, self.channels, self.max_frames)
        if ready != 0:
            raise ValueError(f"init answered {ready}")
        for number, value in self.params.items():
            self.set(number, value)

    def call(self, name: str, *arguments: float) -> Any:
        """Call an export."""
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func), name
        return function(self.store, *arguments)

    def set(self, number: int, value: float) -> None:
        """Set a parameter between two blocks."""
        answer = self.call("param", number, float(value))
        if answer != 0:
            raise ValueError(f"param {number} = {value} was answered {answer}")

    def process(self, block: Float32) -> Float32:
        """Run one block, float32[frames, channels]."""
        frames = len(block)
        planar = np.zeros((self.channels, self.max_frames), np.float32)
        planar[:, :frames] = block.T
        self.memory.write(self.store, planar.tobytes(), self.call("in_ptr"))
        returned: list[int] = []
        self.blocks.append(self._count(lambda: returned.append(self.call("process", frames))))
        assert returned == [frames]
        out = self.call("out_ptr")
        heard = self.memory.read(self.store, out, out + planar.nbytes)
        self.start += frames
        return np.frombuffer(heard, np.float32).reshape(planar.shape)[:, :frames].T.copy()

    def run(self, signal: Float32) -> Float32:
        """Run float32[frames, channels] in blocks of 20 ms, the last one shorter."""
        assert signal.dtype == np.float32
        return np.concatenate([self.process(block) for block in self._cut(signal)])

    def _cut(self, signal: Float32) -> Iterator[Float32]:
        for at in range(0, len(signal), self.max_frames):
            yield signal[at : at + self.max_frames]

    def record(self, kind: int, subject: bytes, data: bytes) -> int:
        """Hand over one record and return the answer."""
        assert len(subject) + len(data) <= self.call("record_capacity")
        self.memory.write(self.store, subject + data, self.call("record_ptr"))
        answer: list[int] = []
        self.blocks.append(
            self._count(lambda: answer.append(self.call("record", kind, len(subject), len(data))))
        )
        return answer[0]

    def _count(self, work: Any) -> int:
        self.store.set_fuel(PLENTY)
        work()
        return PLENTY - self.store.get_fuel()

    def _text(self, at: int, size: int) -> bytes:
        return bytes(self.memory.read(self.store, at, at + size))

    def _log(self, level: int, at: int, size: int) -> None:
        self.logged.append((level, self._text(at, size).decode()))

    def _emit(self, out: int, out_size: int, at: int, size: int) -> int:
        answer = self.answers.pop(0) if self.answers else 0
        if answer == 0:
            name = check_name("output", self._text(out, out_size).decode())
            self.emitted.append(Emitted(name, read_data(self._text(at, size), RECORD_BYTES), self.start))
        return answer
