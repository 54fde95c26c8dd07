"""Assignments: which module runs where, on how many racks."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from stagebox.errors import InputError
from stagebox.identity import Role
from stagebox.modules.patch import Point
from stagebox_mixer.api.bodies import AssignRequest, Reason
from stagebox_mixer.api.module_view import assignment_view
from stagebox_mixer.api.services import Services
from stagebox_mixer.modules.assigning import Wanted
from stagebox_mixer.modules.assignments import unknown_assignment


def add_routes(app: FastAPI, services: Services) -> None:
    """Add them to ``app``."""

    @app.get("/api/v1/assignments")
    async def list_assignments(request: Request, module: str = "") -> dict[str, Any]:
        await services.access.require(request, Role.VIEWER)
        catalogue, racks = await services.modules.catalogue(), await _racks(services)
        found = [item for item in catalogue.assignments if module in ("", item.module)]
        # Of which module one that cannot be read is, nobody knows: it is in every list.
        odd = [{"id": item.key, "problem": item.problem} for item in catalogue.unreadable_assignments]
        return {"v": 1, "assignments": [assignment_view(item, racks) for item in found], "unreadable": odd}

    @app.get("/api/v1/assignments/{name}")
    async def show_assignment(name: str, request: Request) -> dict[str, Any]:
        await services.access.require(request, Role.VIEWER)
        catalogue = await services.modules.catalogue()
        found, odd = catalogue.assignment(name), catalogue.unreadable_assignment(name)
        if odd is not None:
            raise InputError(
                f"assignment {name!r} cannot be read: {odd.problem}",
                remedy=f"remove it: stagebox wasm unassign {name}",
            )
        if found is None:
            raise unknown_assignment(name)
        return {"v": 1, **assignment_view(found, await _racks(services))}

    @app.post("/api/v1/assignments")
    async def assign(body: AssignRequest, request: Request) -> dict[str, Any]:
        caller = await services.access.require(request, Role.ADMIN)
        wanted = Wanted(
            module=body.module,
            version=body.version,
            racks=tuple(dict.fromkeys(body.racks)),
            point=_point(body.point),
            source=body.source,
            bus=body.bus,
            params=body.params,
            percent=body.percent,
        )
        made = await services.modules.assign(wanted, actor=caller.uri, name=body.id, reason=body.reason)
        return {"v": 1, **assignment_view(made, await _racks(services))}

    @app.delete("/api/v1/assignments/{name}")
    async def unassign(name: str, request: Request, reason: Reason = "") -> dict[str, Any]:
        caller = await services.access.require(request, Role.ADMIN)
        await services.modules.unassign(name, actor=caller.uri, reason=reason)
        return {"v": 1, "id": name}


async def _racks(services: Services) -> list[str]:
    return [entry.name for entry in await services.registry.all_racks() if not entry.removed_at]


def _point(text: str) -> Point:
    try:
        return Point(text)
    except ValueError:
        raise InputError(f"there is no point {text!r}", remedy=f"use one of {', '.join(Point)}") from None
