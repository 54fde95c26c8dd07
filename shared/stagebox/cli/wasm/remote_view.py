"""What the mixer says of modules, assignments and vendors, as text for people. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from stagebox.cli.admin.heartbeat import presence_text
from stagebox.cli.admin.rendering import field_lines, table_lines, utc

Fields = Mapping[str, Any]


def list_lines(
    modules: Sequence[Fields], assignments: Sequence[Fields], unreadable: Sequence[Fields] = ()
) -> list[str]:
    """Return every module, where it is assigned, and what the mixer cannot read."""
    if not modules:
        return [
            "no module is imported; import one with `stagebox wasm import`",
            *unreadable_lines(unreadable),
        ]
    table = assignment_table(assignments, revoked_of(modules))
    assigned = table if assignments else ["none of them is assigned"]
    return [*module_table(modules), "", *assigned, *unreadable_lines(unreadable)]


def unreadable_lines(unreadable: Sequence[Fields]) -> list[str]:
    """Return what the mixer's registry holds and the mixer cannot read, a line each; nothing if that is nothing."""
    if not unreadable:
        return []
    rows = [(_unreadable_title(item), str(item.get("problem", ""))) for item in unreadable]
    return ["", "the mixer cannot read these, and they run nowhere", *table_lines(("ENTRY", "PROBLEM"), rows)]


def _unreadable_title(item: Fields) -> str:
    if "id" in item:
        return f"assignment {item['id']}"
    named = f"{item['name']}@{item.get('version')}" if item.get("name") else item.get("key")
    return f"module {named}"


def show_lines(
    versions: Sequence[Fields],
    assignments: Sequence[Fields],
    racks: Mapping[str, Fields],
    revoked: Collection[str],
    unreadable: Sequence[Fields] = (),
) -> list[str]:
    """Return everything about versions of a module, and what those of its ``racks`` that were asked for said of it."""
    lines = [line for item in versions for line in (*module_lines(item), "")]
    if unreadable:
        lines += [*unreadable_lines(unreadable)[1:], ""]
    if not assignments:
        return [*lines, "it is not assigned"]
    lines += [*assignment_table(assignments, revoked), *where_lines(assignments, racks)]
    if (more := len(racks_on(assignments)) - len(racks)) > 0:
        lines.append(f"and {more} more racks: stagebox admin racks show RACK")
    return lines


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


def assignment_table(assignments: Sequence[Fields], revoked: Collection[str] = ()) -> list[str]:
    """Return one line an assignment; ``revoked`` are the modules that run nowhere, as ``NAME@VERSION``."""
    rows = [
        (
            str(item.get("id", "")),
            f"{item.get('module')}@{item.get('version')}",
            place(item),
            " ".join(str(rack) for rack in item.get("racks", ())),
            rollout(item),
            note(item, revoked),
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
    return f"{assignment.get('percent')} %, {new} of {len(on)} racks"


def note(assignment: Fields, revoked: Collection[str] = ()) -> str:
    """Return what an operator should know besides."""
    previous, reason = assignment.get("previous"), assignment.get("reason")
    if assignment.get("state") == "rolled_back":
        back = f"back at {previous}" if previous else "nothing runs"
        notes, wanted = [f"rolled back, {back}: code {reason}"], previous
    else:
        notes, wanted = [f"before: {previous}"] if previous else [], assignment.get("version")
    if wanted and f"{assignment.get('module')}@{wanted}" in revoked:
        notes.append(f"{wanted} is revoked, it runs nowhere")
    return "; ".join(notes)


def revoked_of(modules: Sequence[Fields]) -> frozenset[str]:
    """Return those that are revoked, as ``NAME@VERSION``."""
    return frozenset(f"{item.get('name')}@{item.get('version')}" for item in modules if item.get("revoked"))


def assigned_lines(made: Fields) -> list[str]:
    """Return what an assignment came to, and why if no rack gets the module."""
    version, percent = made.get("version"), made.get("percent")
    on = [item for item in made.get("on", ()) if isinstance(item, dict)]
    lines = assignment_table([made])
    if any(item.get("version") == version for item in on):
        return lines
    if percent == 100:
        return [*lines, "no registered rack is meant by it: check the patterns"]
    return [
        *lines,
        f"no rack gets {version} at {percent} %: which do is decided by their names; "
        "give more, or check the patterns",
    ]


def where_lines(assignments: Sequence[Fields], racks: Mapping[str, Fields]) -> list[str]:
    """Return one line for each assignment and rack: what the rack said last of it."""
    rows = [
        (
            rack,
            presence_text(racks[rack].get("presence")),
            str(item.get("id")),
            *(str(said.get(key, "")) for key in ("version", "state", "faults", "over_budget", "code")),
        )
        for item in assignments
        for rack in racks_on([item])
        if rack in racks
        for said in [_said(racks[rack], item.get("id"))]
    ]
    header = ("RACK", "PRESENCE", "ASSIGNMENT", "VERSION", "STATE", "FAULTS", "OVER BUDGET", "CODE")
    return ["", "as the racks said last", *table_lines(header, rows)] if rows else []


def racks_on(assignments: Sequence[Fields]) -> list[str]:
    """Return the names of the racks that these assignments are for, each once."""
    found = [item.get("rack") for one in assignments for item in one.get("on", ()) if isinstance(item, dict)]
    return [str(name) for name in dict.fromkeys(found)]


def _said(rack: Fields, insert: object) -> Fields:
    heartbeat = rack.get("heartbeat")
    if isinstance(heartbeat, dict) and "version" in heartbeat and "modules" not in heartbeat:
        # Every release that knows modules lists them, also when there are none.
        return {"state": f"its release, {heartbeat.get('version')}, knows no modules"}
    modules = heartbeat.get("modules") if isinstance(heartbeat, dict) else None
    for item in modules if isinstance(modules, list) else ():
        if isinstance(item, dict) and item.get("insert") == insert:
            return item
    return {"state": "not there"}


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
    if not vendors:
        return ["no vendor is trusted: put a vendor's vendor.toml into wasm/keys of the mixer's data"]
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
    if not vendor.get("revoked"):
        return ""
    return f"revoked: {vendor.get('reason') or 'see `stagebox admin racks denied`'}"


def import_lines(answer: Fields) -> list[str]:
    """Return what an import did."""
    module = answer.get("module")
    module = module if isinstance(module, dict) else {}
    what = f"{module.get('name')}@{module.get('version')}"
    if answer.get("repaired"):
        return [
            f"{what} was imported before, and its file was lost at the mixer:",
            f"it is stored and countersigned again, serial {module.get('serial')}; its racks get the new file",
        ]
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
    if unread := answer.get("unreadable"):
        lines.append(f"these entries cannot be read: {', '.join(str(key) for key in unread)}")
        lines.append(
            "if one may be of a key that is not listed, revoke it as NAME@VERSION, or that key by its id"
        )
    return lines
