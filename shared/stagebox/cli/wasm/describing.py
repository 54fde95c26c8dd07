"""What a module file says of itself, as facts for a person or a program. Nothing here is a verification."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import typer

from stagebox.modules.interface import Interface, read_interface
from stagebox.modules.params import Param, read_params
from stagebox.modules.signature_section import place, split_section
from stagebox.modules.statement import PAGE_BYTES, ClusterStatement, Statement
from stagebox.modules.walker import Section, walk

Facts = dict[str, Any]

SECTION_NAMES = {
    1: "type", 2: "import", 3: "function", 4: "table", 5: "memory", 6: "global", 7: "export", 8: "start",
    9: "element", 10: "code", 11: "data", 12: "data count", 13: "tag",
}  # fmt: skip


def describe(data: bytes) -> Facts:
    """Return everything in the file that a reader may want to know, with signatures as they stand.

    Raises:
        ModuleError: it is no module, or malformed.
    """
    sections = walk(data)
    placed = place(sections)
    facts: Facts = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "sections": [_section(section) for section in sections],
        **interface_facts(read_interface(data, sections)),
        "params": [param_facts(param) for param in read_params(data, sections)],
        "vendor": None,
        "cluster": None,
    }
    if placed.vendor is not None:
        facts["vendor"] = statement_facts(Statement.decode(split_section(data, placed.vendor)[0]))
    if placed.cluster is not None:
        facts["cluster"] = cluster_facts(ClusterStatement.decode(split_section(data, placed.cluster)[0]))
    return facts


def statement_facts(statement: Statement) -> Facts:
    """Return what a vendor states."""
    return {
        "name": statement.name,
        "version": statement.version,
        "abi": statement.abi,
        "capabilities": [capability.value for capability in statement.capabilities],
        "signer": statement.signer,
        "key_id": statement.key_id.hex(),
        "issued": utc(statement.issued),
        "expires": utc(statement.expires),
        "covered": statement.covered,
        "sha256": statement.sha256.hex(),
        "blake3": statement.blake3.hex(),
        "unknown_fields": sorted(statement.extra),
    }


def cluster_facts(cluster: ClusterStatement) -> Facts:
    """Return what a cluster states."""
    return {
        **statement_facts(cluster.statement),
        "cluster": cluster.cluster,
        "granted": [capability.value for capability in cluster.granted],
        "limits": cluster.limits.wire(),
        "serial": cluster.serial,
        "unknown_fields": sorted(cluster.extra),
    }


def interface_facts(interface: Interface) -> Facts:
    """Return what a module takes from its host and gives it; of several memories, which no host takes, the first."""
    memory = interface.memories[0] if interface.memories else None
    return {
        "imports": [f"{item.module}.{item.name}" for item in interface.imports],
        "exports": sorted(interface.exports),
        "memory": memory and {"min_pages": memory.minimum, "max_pages": memory.maximum},
    }


def param_facts(param: Param) -> Facts:
    """Return one parameter."""
    return {
        "name": param.name,
        "id": param.id,
        "min": param.min,
        "max": param.max,
        "default": param.default,
        "unit": param.unit,
    }


def rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return facts as name and text, for the eye."""
    found = []
    for name, value in facts.items():
        if name == "params":
            found += [("param", _param_text(item)) for item in value] or [("params", "none")]
        elif name == "memory":
            found.append((name, memory_text(value)))
        elif name == "limits":
            found.append((name, ", ".join(f"{key} {number}" for key, number in value.items())))
        elif name != "unknown_fields" or value:
            found.append(
                (name, ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value))
            )
    return found


def memory_text(memory: Mapping[str, Any] | None) -> str:
    """Return memory in pages and MiB."""
    if memory is None:
        return "none"
    least, most = memory["min_pages"], memory["max_pages"]
    if most is None:
        return f"{least} pages, without a maximum"
    return (
        f"{least} to {most} pages ({least * PAGE_BYTES / 2**20:.2g} to {most * PAGE_BYTES / 2**20:.2g} MiB)"
    )


def utc(time_ns: int) -> str:
    """Return a time in ISO 8601, or the number if no calendar has it."""
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns since 1970, beyond the calendar"


def echo_rows(named: list[tuple[str, str]]) -> None:
    """Print names and texts in two columns, without control characters."""
    from stagebox.logs import printable

    width = max(len(name) for name, _ in named)
    for name, text in named:
        typer.echo(f"{name:<{width}}  {printable(text)}")


def _section(section: Section) -> Facts:
    return {
        "id": section.id,
        "name": section.name if section.name is not None else SECTION_NAMES[section.id],
        "custom": section.name is not None,
        "offset": section.start,
        "bytes": section.end - section.start,
    }


def _param_text(param: Mapping[str, Any]) -> str:
    unit = f" {param['unit']}" if param["unit"] else ""
    return (
        f"{param['name']} (id {param['id']}): {param['min']:g} to {param['max']:g}{unit}, "
        f"default {param['default']:g}{unit}"
    )
