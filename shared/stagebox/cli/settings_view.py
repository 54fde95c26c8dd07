"""How effective settings are shown: as TOML with the origin of each value, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from stagebox.config import Loaded


def show_sections(loaded: Mapping[str, Loaded[Any]], *, as_json: bool, out: TextIO) -> None:
    """Write sections as TOML with the origin of each value in a comment, or as JSON."""
    if as_json:
        document = {
            name: {
                field: {"value": value, "origin": str(section.origins[field])}
                for field, value in section.shown().items()
            }
            for name, section in loaded.items()
        }
        out.write(json.dumps(document, indent=2) + "\n")
        return
    for name, section in loaded.items():
        lines = {
            field: f"{field} = {_toml(value)}" if value is not None else f"# {field} is not set"
            for field, value in section.shown().items()
        }
        width = min(max((len(line) for line in lines.values()), default=0), 60)
        out.write(f"[{name}]\n")
        for field, line in lines.items():
            out.write(f"{line:<{width}}  # {section.origins[field]}\n")
        out.write("\n")


def _toml(value: object) -> str:
    # JSON's texts, numbers, booleans and flat lists are TOML as they stand.
    return json.dumps(value, ensure_ascii=False)
