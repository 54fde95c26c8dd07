"""The deny list: who is banned, ban, lift a ban. A ban drops live connections before it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request

from stagebox.control.denylist import REVOCATIONS, Denied, DenyKind, DenyList, denied
from stagebox.errors import BusError, DecodeError, InputError, StageboxError
from stagebox.identity import Role
from stagebox_mixer.api.bodies import DenyRequest, Reason
from stagebox_mixer.api.problems import NotFound
from stagebox_mixer.api.rack_view import ban_on, ban_view
from stagebox_mixer.api.services import Services
from stagebox_mixer.connections import LiveConnection

log = structlog.get_logger()


def add_routes(app: FastAPI, services: Services) -> None:
    """Add them to ``app``."""

    @app.get("/api/v1/denied")
    async def list_denied(request: Request) -> dict[str, Any]:
        await services.access.require(request, Role.VIEWER)
        deny, notes = await services.denials.read(), await services.denials.notes()
        return {**_head(deny), "denied": [ban_view(entry, notes) for entry in deny.entries]}

    @app.post("/api/v1/denied")
    async def ban(body: DenyRequest, request: Request) -> dict[str, Any]:
        caller = await services.access.require(request, Role.ADMIN)
        entry = _of_racks(denied(body.kind, body.value))
        if entry.kind is DenyKind.CERTIFICATE and entry.value == caller.certificate:
            raise InputError(
                "this is the certificate you are calling with",
                remedy="let another admin ban it, or make yourself a new one first",
            )
        deny, before = await _ban(services, entry, reason=body.reason, actor=caller.uri)
        ended, problem = await _enforce(services)
        racks = await _hit(services, entry)
        return {
            **_head(deny),
            "kind": entry.kind.value,
            "value": entry.value,
            "kicked": None if ended is None else max(ended, _count(before, entry, racks)),
            "problem": problem,
            "racks": racks,
        }

    @app.delete("/api/v1/denied/{kind}/{value}")
    async def clear(kind: str, value: str, request: Request, reason: Reason = "") -> dict[str, Any]:
        caller = await services.access.require(request, Role.ADMIN)
        entry = _of_racks(denied(kind, value))
        if entry not in (await services.denials.read()).entries:
            raise NotFound(f"{kind} {value!r} is not denied", remedy="stagebox admin racks denied")
        deny = await services.denials.clear(entry.kind.value, entry.value, actor=caller.uri, reason=reason)
        return {**_head(deny), "kind": entry.kind.value, "value": entry.value}


def _of_racks(entry: Denied) -> Denied:
    """Modules have a way of their own in, which marks them in their registry, and no way out."""
    if entry.kind in REVOCATIONS:
        raise InputError(
            f"{entry.kind.value}s are not denied here, and a revocation is final",
            remedy="revoke with stagebox wasm revoke; to go on, import another version, or another key's",
        )
    return entry


def _head(deny: DenyList) -> dict[str, Any]:
    return {"v": 1, "epoch": deny.epoch, "time_ns": deny.time_ns}


async def _ban(
    services: Services, entry: Denied, *, reason: str, actor: str
) -> tuple[DenyList, Sequence[LiveConnection]]:
    """Ban; returns also who was connected before: what the ban ends at once is not there to be counted after."""
    looking = asyncio.create_task(_connected(services), name="connected-before-ban")
    try:
        deny = await services.denials.deny(entry.kind.value, entry.value, reason=reason, actor=actor)
    finally:
        before = await looking
    return deny, before


async def _connected(services: Services) -> Sequence[LiveConnection]:
    try:
        return await services.connections.live()
    except (BusError, DecodeError) as error:
        log.warning("connections_unknown", error=error.message)
        return ()


async def _enforce(services: Services) -> tuple[int | None, str]:
    """End what is connected; the ban stands and is enforced later even if that cannot be done now."""
    try:
        return await services.enforcer.enforce(), ""
    except StageboxError as error:
        log.error("ban_not_yet_enforced", error=error.message)
        return None, error.message


def _count(before: Sequence[LiveConnection], entry: Denied, racks: list[str]) -> int:
    users = {f"rack:{name}" for name in racks}
    return sum(connection.user in users or connection.certificate == entry.value for connection in before)


async def _hit(services: Services, entry: Denied) -> list[str]:
    """Return the registered racks that the ban hits: none at all may be a slip of the pen."""
    only = DenyList(services.cluster, entries=(entry,))
    return [
        rack.name
        for rack in await services.registry.all_racks()
        if not rack.removed_at and ban_on(rack, only) is not None
    ]
