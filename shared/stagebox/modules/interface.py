"""What a module imports and exports, judged before any engine sees the file.

:mod:`stagebox.modules.reading` reads the sections that say so. Here is what they have to say: imports that were
granted, one bounded memory, and the functions of ABI v1 with their types. See docs/reference/module-signature.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from stagebox.errors import ModuleError
from stagebox.modules.capabilities import IMPORT_MODULE, IMPORTS, Capability
from stagebox.modules.params import Param
from stagebox.modules.reading import (
    F32,
    I32,
    I64,
    Export,
    FuncType,
    Import,
    Interface,
    Kind,
    MemoryType,
    TableType,
    read_interface,
)
from stagebox.modules.statement import PAGE_BYTES, ModuleLimits

__all__ = [
    "Export",
    "FuncType",
    "Import",
    "Interface",
    "Kind",
    "MemoryType",
    "TableType",
    "check_interface",
    "read_interface",
    "tightened",
]

_IMPORT_TYPES = {
    "emit": FuncType((I32, I32, I32, I32), (I32,)),
    "log": FuncType((I32, I32, I32), ()),
    "now": FuncType((), (I64,)),
}
_INIT = {"init": FuncType((I32, I32, I32), (I32,))}
_ASKED = FuncType((), (I32,))
_PARAM = FuncType((I32, F32), (I32,))
_NEEDED = {
    Capability.AUDIO: {"in_ptr": _ASKED, "out_ptr": _ASKED, "process": FuncType((I32,), (I32,))},
    Capability.TELEMETRY: {
        "record_ptr": _ASKED,
        "record_capacity": _ASKED,
        "record": FuncType((I32, I32, I32), (I32,)),
    },
}
_OPTIONAL = {"_initialize": FuncType((), ()), "close": FuncType((), ()), "param": _PARAM}


def check_interface(
    interface: Interface,
    granted: Collection[Capability],
    limits: ModuleLimits,
    params: Collection[Param] = (),
) -> None:
    """Demand that a module needs nothing that it was not granted and has what the host calls.

    Raises:
        ModuleError: it does, or has not.
    """
    if not any(purpose in granted for purpose in _NEEDED):
        raise ModuleError("nothing_granted", "the module is granted neither audio nor telemetry")
    for item in interface.imports:
        _check_import(item, granted)
    _check_memory(interface, limits)
    _check_tables(interface.tables, limits)
    needed = dict(_INIT)
    for purpose, functions in _NEEDED.items():
        if purpose in granted:
            needed |= functions
    if params:
        needed["param"] = _PARAM
    for name, expected in needed.items():
        if name not in interface.exports:
            raise ModuleError("export_missing", f"the module does not export {name!r}")
        _check_export(interface, name, expected)
    for name, expected in _OPTIONAL.items():
        if name in interface.exports:
            _check_export(interface, name, expected)


def tightened(limits: ModuleLimits, interface: Interface) -> ModuleLimits:
    """Return limits with no more memory than a module of this interface can grow to, so that no room is kept idle.

    The interface must have passed :func:`check_interface`.
    """
    pages = interface.memories[0].maximum or 0
    return replace(limits, memory_bytes=max(PAGE_BYTES, pages * PAGE_BYTES))


def _check_import(item: Import, granted: Collection[Capability]) -> None:
    what = f"{item.module!r}.{item.name!r}"
    if item.kind is not Kind.FUNC:
        raise ModuleError(
            "import_kind", f"the module imports the {item.kind.value} {what}; only functions can be"
        )
    if item.module != IMPORT_MODULE or item.name not in IMPORTS:
        raise ModuleError("unknown_import", f"the module imports {what}, which there is not")
    if item.type != _IMPORT_TYPES[item.name]:
        raise ModuleError(
            "import_type", f"the module imports {what} as {item.type}, not {_IMPORT_TYPES[item.name]}"
        )
    capability = IMPORTS[item.name]
    if capability not in granted:
        raise ModuleError(
            "import_not_granted",
            f"the module imports {what} and is not granted {capability.value!r}",
            remedy="ask for it in module.toml, and have it granted on import",
        )


def _check_memory(interface: Interface, limits: ModuleLimits) -> None:
    if not interface.memories:
        raise ModuleError("memory_missing", "the module has no memory")
    if len(interface.memories) > 1:
        raise ModuleError("multiple_memories", f"the module has {len(interface.memories)} memories")
    memory = interface.memories[0]
    if memory.shared:
        raise ModuleError("shared_memory", "the module has a memory that threads share")
    if memory.maximum is None:
        raise ModuleError("memory_unbounded", "the module's memory has no declared maximum")
    size = memory.maximum * PAGE_BYTES
    if size > limits.memory_bytes:
        raise ModuleError(
            "memory_too_large",
            f"the module's memory may grow to {size} bytes, {limits.memory_bytes} are granted",
        )
    exported = interface.exports.get("memory")
    if exported is None:
        raise ModuleError("export_missing", "the module does not export 'memory'")
    if exported.kind is not Kind.MEMORY:
        raise ModuleError("export_type", f"the module exports a {exported.kind.value} as 'memory'")


def _check_tables(tables: Iterable[TableType], limits: ModuleLimits) -> None:
    # The engine lets each table grow to what is granted, so only a lone one may do without a maximum.
    granted = limits.table_elements
    total = sum(max(one.minimum, granted) if one.maximum is None else one.maximum for one in tables)
    if total > granted:
        raise ModuleError(
            "table_too_large",
            f"the module's tables may grow to {total} elements together, {granted} are granted",
            remedy="declare a maximum for each table: one without counts as all that is granted",
        )


def _check_export(interface: Interface, name: str, expected: FuncType) -> None:
    found = interface.exports[name]
    if found.kind is not Kind.FUNC:
        raise ModuleError(
            "export_type", f"the module exports a {found.kind.value} as {name!r}, not a function"
        )
    if found.type != expected:
        raise ModuleError("export_type", f"the module exports {name!r} as {found.type}, not {expected}")
