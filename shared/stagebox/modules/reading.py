"""The types, imports, memories, tables, globals and exports of a Wasm file, read without an engine.

Only what the ABI can have is read; what belongs to a proposal it does not use is refused. Every count is bounded before
it is believed, and nothing recurses.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from stagebox.errors import ModuleError
from stagebox.modules import walker
from stagebox.modules.constants import skip_constant
from stagebox.modules.limits import LIMITS
from stagebox.modules.walker import Section, read_name, read_u32

I32, I64, F32, F64, V128 = 0x7F, 0x7E, 0x7D, 0x7C, 0x7B
_FUNCREF, _EXTERNREF = 0x70, 0x6F
_VALUE_TYPES = {
    I32: "i32",
    I64: "i64",
    F32: "f32",
    F64: "f64",
    V128: "v128",
    _FUNCREF: "funcref",
    _EXTERNREF: "externref",
}
_FUNC_TYPE = 0x60
_MAX_PAGES = 65_536
_LIMIT_MAXIMUM, _LIMIT_SHARED, _LIMIT_64 = 1, 2, 4


class Kind(enum.StrEnum):
    """What is imported or exported, in the order of the numbers that say so."""

    FUNC = "func"
    TABLE = "table"
    MEMORY = "memory"
    GLOBAL = "global"


_KINDS = tuple(Kind)
_TAG_KIND = 4


@dataclass(frozen=True)
class FuncType:
    """The type of a function by the bytes of its value types."""

    params: tuple[int, ...]
    results: tuple[int, ...]

    def __str__(self) -> str:
        """Return it as the text format would."""
        params, results = (
            " ".join(_VALUE_TYPES[item] for item in part) for part in (self.params, self.results)
        )
        return f"({params}) -> ({results})"


@dataclass(frozen=True)
class Import:
    """One import; ``type`` is that of a function and None for other kinds."""

    module: str
    name: str
    kind: Kind
    type: FuncType | None


@dataclass(frozen=True)
class Export:
    """One export; ``type`` is that of a function and None for other kinds."""

    kind: Kind
    type: FuncType | None


@dataclass(frozen=True)
class MemoryType:
    """A memory; sizes in pages of 64 KiB."""

    minimum: int
    maximum: int | None
    shared: bool


@dataclass(frozen=True)
class TableType:
    """A table; sizes in elements."""

    minimum: int
    maximum: int | None


@dataclass(frozen=True)
class Interface:
    """What a module asks of the outside and shows to it; memories and tables are all, imported and its own."""

    imports: tuple[Import, ...]
    exports: Mapping[str, Export]
    memories: tuple[MemoryType, ...]
    tables: tuple[TableType, ...]


def read_interface(data: bytes, sections: tuple[Section, ...]) -> Interface:
    """Read the interface of a file by its sections.

    Raises:
        ModuleError: a section is malformed, or of a proposal that the ABI does not use.
    """
    reader = _Interface(data)
    read = {
        walker.TYPE: reader.types_section,
        walker.IMPORT: reader.import_section,
        walker.FUNCTION: reader.function_section,
        walker.TABLE: reader.table_section,
        walker.MEMORY: reader.memory_section,
        walker.GLOBAL: reader.global_section,
        walker.EXPORT: reader.export_section,
    }
    for section in sections:
        if section.id == walker.TAG:
            raise ModuleError("tags", "the module has exception tags")
        if section.id in read:
            reader.enter(section)
            read[section.id]()
            reader.leave()
    return Interface(tuple(reader.imports), reader.exports, tuple(reader.memories), tuple(reader.tables))


class _Interface:
    """The reader: a position in one section, and what was found so far."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = self._end = 0
        self.types: list[FuncType] = []
        self.functions: list[int] = []
        self.imports: list[Import] = []
        self.exports: dict[str, Export] = {}
        self.memories: list[MemoryType] = []
        self.tables: list[TableType] = []
        self.globals = 0

    def enter(self, section: Section) -> None:
        self._at, self._end = section.content, section.end

    def leave(self) -> None:
        if self._at != self._end:
            raise ModuleError("malformed", f"a section has {self._end - self._at} bytes after its last item")

    def types_section(self) -> None:
        for _ in range(self._count(LIMITS.max_types, "types")):
            form = self._byte()
            if form != _FUNC_TYPE:
                raise ModuleError(
                    "unknown_type", f"a type of form {form:#04x} at {self._at - 1} is no function's"
                )
            self.types.append(FuncType(self._value_types(), self._value_types()))

    def import_section(self) -> None:
        for _ in range(self._count(LIMITS.max_imports, "imports")):
            module, name = self._name(), self._name()
            kind = self._kind()
            found: FuncType | None = None
            match kind:
                case Kind.FUNC:
                    found = self._function()
                case Kind.TABLE:
                    self._table()
                case Kind.MEMORY:
                    self._memory()
                case Kind.GLOBAL:
                    self._global_type()
            self.imports.append(Import(module, name, kind, found))

    def function_section(self) -> None:
        for _ in range(self._count(LIMITS.max_functions, "functions")):
            self._function()

    def table_section(self) -> None:
        for _ in range(self._count(LIMITS.max_tables, "tables")):
            self._table()

    def memory_section(self) -> None:
        for _ in range(self._count(LIMITS.max_memories, "memories")):
            self._memory()

    def global_section(self) -> None:
        for _ in range(self._count(LIMITS.max_globals, "globals")):
            self._global_type()
            self._at = skip_constant(self._data, self._at, self._end)

    def export_section(self) -> None:
        for _ in range(self._count(LIMITS.max_exports, "exports")):
            name, kind = self._name(), self._kind()
            index = self._u32()
            if name in self.exports:
                raise ModuleError("duplicate_export", f"the module exports {name!r} twice")
            have = {
                Kind.FUNC: len(self.functions),
                Kind.TABLE: len(self.tables),
                Kind.MEMORY: len(self.memories),
                Kind.GLOBAL: self.globals,
            }[kind]
            if index >= have:
                raise ModuleError(
                    "malformed", f"the export {name!r} is of {kind.value} {index}, which there is not"
                )
            self.exports[name] = Export(
                kind, self.types[self.functions[index]] if kind is Kind.FUNC else None
            )

    def _function(self) -> FuncType:
        index = self._u32()
        if index >= len(self.types):
            raise ModuleError("malformed", f"a function is of type {index}, which there is not")
        self.functions.append(index)
        return self.types[index]

    def _table(self) -> None:
        element = self._byte()
        if element not in (_FUNCREF, _EXTERNREF):
            raise ModuleError("unknown_type", f"a table is of elements {element:#04x}")
        flags = self._byte()
        if flags not in (0, _LIMIT_MAXIMUM):
            raise ModuleError("unknown_type", f"a table has limits of the kind {flags:#04x}")
        self.tables.append(TableType(*self._bounds(flags)))

    def _memory(self) -> None:
        flags = self._byte()
        if flags > (_LIMIT_MAXIMUM | _LIMIT_SHARED | _LIMIT_64):
            raise ModuleError("unknown_type", f"a memory has limits of the kind {flags:#04x}")
        if flags & _LIMIT_64:
            # Its sizes are longer than a u32, and nobody wants to know them.
            raise ModuleError("memory64", "the module has a memory of 64-bit addresses")
        minimum, maximum = self._bounds(flags)
        if minimum > _MAX_PAGES or (maximum is not None and maximum > _MAX_PAGES):
            raise ModuleError("malformed", f"a memory has more than {_MAX_PAGES} pages")
        self.memories.append(MemoryType(minimum, maximum, bool(flags & _LIMIT_SHARED)))

    def _bounds(self, flags: int) -> tuple[int, int | None]:
        minimum = self._u32()
        if not flags & _LIMIT_MAXIMUM:
            return minimum, None
        maximum = self._u32()
        if maximum < minimum:
            raise ModuleError("malformed", f"limits end at {maximum} and begin with {minimum}")
        return minimum, maximum

    def _global_type(self) -> None:
        self._value_type(self._byte())
        if self._byte() > 1:
            raise ModuleError("malformed", f"a global at {self._at - 1} is neither constant nor mutable")
        self.globals += 1

    def _value_types(self) -> tuple[int, ...]:
        count = self._count(LIMITS.max_values, "values")
        found = self._data[self._at : self._at + count]
        for value in set(found) - _VALUE_TYPES.keys():
            self._value_type(value)
        self._at += count
        return tuple(found)

    def _value_type(self, value: int) -> int:
        if value not in _VALUE_TYPES:
            raise ModuleError("unknown_type", f"a value at {self._at - 1} is of type {value:#04x}")
        return value

    def _kind(self) -> Kind:
        number = self._byte()
        if number == _TAG_KIND:
            raise ModuleError("tags", "the module imports or exports an exception tag")
        if number >= len(_KINDS):
            raise ModuleError("malformed", f"something at {self._at - 1} is of kind {number}")
        return _KINDS[number]

    def _name(self) -> str:
        name, self._at = read_name(self._data, self._at, self._end, max_bytes=LIMITS.max_item_name_bytes)
        return name

    def _count(self, most: int, what: str) -> int:
        count = self._u32()
        if count > most:
            raise ModuleError("too_many_items", f"the module has {count} {what}, {most} are allowed")
        if count > self._end - self._at:
            raise ModuleError("overrun", f"a section claims {count} {what}, more than it has bytes")
        return count

    def _u32(self) -> int:
        value, self._at = read_u32(self._data, self._at, self._end)
        return value

    def _byte(self) -> int:
        if self._at >= self._end:
            raise ModuleError("overrun", f"an item runs past {self._end}, where its section ends")
        self._at += 1
        return self._data[self._at - 1]
