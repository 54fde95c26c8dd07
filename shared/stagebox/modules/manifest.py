"""``module.toml``: what an author says about a module, for ``stagebox wasm build``, ``test`` and ``sign``.

It never travels: what a mixer or rack believes is in the signed file. A key that is not known is refused, because it
is a typing error. Pure.
"""

from __future__ import annotations

import enum
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stagebox.errors import InputError
from stagebox.identity import check_name
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS
from stagebox.modules.params import Param, encode_params
from stagebox.modules.statement import ABI, PAGE_BYTES, check_version, in_order

FILE_NAME = "module.toml"

_FIELDS = ("name", "version", "abi", "capabilities", "build", "params")
_BUILD_FIELDS = ("language", "sources", "output", "memory_pages", "flags")
_PARAM_FIELDS = ("name", "id", "min", "max", "default", "unit")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z")


class Language(enum.StrEnum):
    """What a module is written in, and so which compiler builds it."""

    C = "c"
    """``zig cc``."""
    ASSEMBLYSCRIPT = "assemblyscript"
    """``asc`` of the npm package."""
    WAT = "wat"
    """WebAssembly's own text, by wasmtime."""


@dataclass(frozen=True)
class Build:
    """How the module is built. ``sources`` and ``output`` are relative to the manifest, ``memory_pages`` is the maximum
    memory in pages of 64 KiB; in WAT the source says that itself. ``flags`` go to the compiler behind our own.
    """

    language: Language
    sources: tuple[str, ...]
    output: str
    memory_pages: int
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """One ``module.toml``."""

    name: str
    version: str
    abi: int
    capabilities: tuple[Capability, ...]
    build: Build
    params: tuple[Param, ...] = ()


def parse(text: str, what: str = FILE_NAME) -> Manifest:
    """Parse a manifest; ``what`` names it in errors.

    Raises:
        InputError: not TOML, or a field is missing, unknown or not what it has to be.
    """
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{what} is not TOML: {error}") from None
    _known(fields, _FIELDS, what)
    abi = _take(fields, "abi", int, what, ABI)
    if abi != ABI:
        raise InputError(f"{what} is for ABI {abi}; this release has ABI {ABI}")
    name, version = _take(fields, "name", str, what), _take(fields, "version", str, what)
    params = _params(_take(fields, "params", list, what, []), what)
    try:
        check_name("module", name)
        check_version(version)
        encode_params(params)
    except InputError as error:
        raise InputError(f"{what}: {error.message}", remedy=error.remedy) from None
    return Manifest(
        name=name,
        version=version,
        abi=abi,
        capabilities=capabilities(_strings(fields, "capabilities", what), what),
        build=_build(_take(fields, "build", dict, what), name, f"{what} [build]"),
        params=params,
    )


def capabilities(names: tuple[str, ...], what: str) -> tuple[Capability, ...]:
    """Return the capabilities of these names, sorted.

    Raises:
        InputError: one is unknown.
    """
    try:
        return in_order([Capability(name) for name in names])
    except ValueError as error:
        known = ", ".join(capability.value for capability in Capability)
        raise InputError(f"{what}: {error}", remedy=f"there are {known}") from None


def _build(fields: Mapping[str, Any], name: str, what: str) -> Build:
    _known(fields, _BUILD_FIELDS, what)
    said = _take(fields, "language", str, what)
    try:
        language = Language(said)
    except ValueError:
        known = ", ".join(Language)
        raise InputError(f"{what} has the language {said!r}", remedy=f"it is one of {known}") from None
    sources = _strings(fields, "sources", what)
    if not sources:
        raise InputError(f"{what} names no sources")
    if language is not Language.C and len(sources) != 1:
        raise InputError(f"{what}: {language} is built from one source; it names {len(sources)}")
    output = _take(fields, "output", str, what, f"{name}.wasm")
    for path in (*sources, output):
        # A compiler must not take a name for an option, and nothing is written outside the directory.
        if not _FILE.match(path) or ".." in path.split("/"):
            raise InputError(f"{what} names the file {path!r}", remedy="use a plain path below the manifest")
    pages = _take(fields, "memory_pages", int, what, 16)
    if not 1 <= pages <= LIMITS.memory_bytes // PAGE_BYTES:
        raise InputError(
            f"{what}: memory_pages {pages} is not within 1 and {LIMITS.memory_bytes // PAGE_BYTES}"
        )
    return Build(language, sources, output, pages, _strings(fields, "flags", what, ()))


def _params(items: list[Any], what: str) -> tuple[Param, ...]:
    found = []
    for number, item in enumerate(items, start=1):
        where = f"{what} [[params]] {number}"
        if not isinstance(item, dict):
            raise InputError(f"{where} is not a table")
        _known(item, _PARAM_FIELDS, where)
        found.append(
            Param(
                name=_take(item, "name", str, where),
                id=_take(item, "id", int, where),
                min=_number(item, "min", where),
                max=_number(item, "max", where),
                default=_number(item, "default", where),
                unit=_take(item, "unit", str, where, ""),
            )
        )
    return tuple(found)


def _known(fields: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise InputError(
            f"{what} has the unknown key {unknown[0]!r}", remedy=f"it may have {', '.join(known)}"
        )


def _number(fields: Mapping[str, Any], key: str, what: str) -> float:
    value = fields.get(key)
    return float(value if type(value) is int else _take(fields, key, float, what))


def _take(fields: Mapping[str, Any], key: str, kind: type, what: str, default: Any = None) -> Any:
    value = fields.get(key, default)
    if value is None:
        raise InputError(f"{what} has no {key}")
    if type(value) is not kind:
        raise InputError(f"{what}: {key} is not {_KINDS[kind]}")
    return value


_KINDS = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a table"}


def _strings(
    fields: Mapping[str, Any], key: str, what: str, default: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    value = fields.get(key, default)
    if value is None:
        raise InputError(f"{what} has no {key}")
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{what}: {key} is not a list of texts")
    return tuple(value)
