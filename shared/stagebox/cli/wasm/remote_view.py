"""What the mixer says of modules, assignments and vendors, as text for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stagebox.cli.admin.rendering import field_lines, table_lines, utc

Fields = Mapping[str, Any]


def module_table(modules: Sequence[Fields]) -> list[str]:
    """Return one line a version."""
    rows = [
        (
            str(module.get("name", "")),
            str(module.get("version", "")),
            str(module.get("vendor", "")),
            ",".join(str(item) for item in module.get("granted", ())),
            f"{module.get('size', '')}",
            utc(module.get("expires_ns")),
            "revoked" if module.get("revoked") else "",
        )
        for module in modules
    ]
    return table_lines(("MODULE", "VERSION", "VENDOR", "GRANTED", "BYTES", "UNTIL", "NOTE"), rows)


def assignment_table(assignments: Sequence[Fields]) -> list[str]:
    """Return one line an assignment."""
    rows = [
        (
            str(item.get("id", "")),
            f"{item.get('module')}@{item.get('version')}",
            place(item),
            " ".join(str(rack) for rack in item.get("racks", ())),
            rollout(item),
            note(item),
        )
        for item in assignments
    ]
    return table_lines(("ASSIGNMENT", "MODULE", "AT", "RACKS", "ROLLOUT", "NOTE"), rows)


def place(assignment: Fields) -> str:
    """Return where the module sits."""
    parts = (assignment.get("point"), assignment.get("source"), assignment.get("bus"))
    return "/".join(str(part) for part in parts if part)


def rollout(assignment: Fields) -> str:
    """Return how far it is rolled out, and on how many of the racks there are."""
    on = [item for item in assignment.get("on", ()) if isinstance(item, dict)]
    new = sum(item.get("version") == assignment.get("version") for item in on)
    return f"{assignment.get('percent')} %, {new} of {len(on)} now"


def note(assignment: Fields) -> str:
    """Return what an operator should know besides."""
    previous, reason = assignment.get("previous"), assignment.get("reason")
    if assignment.get("state") == "rolled_back":
        back = f"back at {previous}" if previous else "nothing runs"
        return f"rolled back, {back}: {reason}"
    return f"before: {previous}" if previous else ""


def module_lines(module: Fields) -> list[str]:
    """Return everything about one version."""
    params = [item for item in module.get("params", ()) if isinstance(item, dict)]
    lines = field_lines({name: value for name, value in module.items() if name != "params"})
    lines += [
        f"param     {item.get('name')}: {item.get('min')} to {item.get('max')} {item.get('unit')}".rstrip()
        + f", {item.get('default')} by default"
        for item in params
    ]
    return lines


def vendor_table(vendors: Sequence[Fields]) -> list[str]:
    """Return one line a file of the mixer's directory."""
    rows = [
        (
            str(vendor.get("owner") or ""),
            str(vendor.get("key_id", "")),
            str(vendor.get("file", "")),
            utc(vendor.get("not_after_ns")),
            ",".join(str(item) for item in vendor.get("capabilities", ())),
            " ".join(str(item) for item in vendor.get("modules", ())),
            _vendor_note(vendor),
        )
        for vendor in vendors
    ]
    return table_lines(("VENDOR", "KEY", "FILE", "UNTIL", "MAY ASK FOR", "MAY BE NAMED", "NOTE"), rows)


def _vendor_note(vendor: Fields) -> str:
    if vendor.get("problem"):
        return f"not trusted: {vendor['problem']}"
    return f"revoked: {vendor.get('reason') or 'see the deny list'}" if vendor.get("revoked") else ""


def import_lines(answer: Fields) -> list[str]:
    """Return what an import did."""
    module = answer.get("module")
    module = module if isinstance(module, dict) else {}
    what = f"{module.get('name')}@{module.get('version')}"
    if not answer.get("new"):
        return [f"{what} was imported before, byte for byte: nothing has changed"]
    return [
        f"imported  {what} of {module.get('vendor')}",
        f"granted   {', '.join(str(item) for item in module.get('granted', ()))}",
        f"digest    {module.get('digest')}",
        f"until     {utc(module.get('expires_ns'))}",
        "",
        "It runs nowhere yet:",
        f"  stagebox wasm assign {what} --rack NAME --point meters --source NAME",
    ]


def revoke_lines(answer: Fields) -> list[str]:
    """Return what a revocation did."""
    modules = [item for item in answer.get("modules", ()) if isinstance(item, dict)]
    hit = ", ".join(f"{item.get('name')}@{item.get('version')}" for item in modules)
    lines = [f"revoked everywhere (deny list {answer.get('epoch')}): {hit or 'no module that was imported'}"]
    if keys := answer.get("keys"):
        lines.append(f"keys: {', '.join(str(key) for key in keys)}")
    return lines
