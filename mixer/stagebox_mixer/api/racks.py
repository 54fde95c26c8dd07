"""Racks: seeing them, changing their standing, and asking one whether it is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import FastAPI, Request

from stagebox.control.command import Ack, CommandVerb
from stagebox.errors import BusError, DecodeError, InputError
from stagebox.identity import Role
from stagebox.passport import PassportStatus
from stagebox_mixer.api.bodies import Reason, StepRequest
from stagebox_mixer.api.problems import NotFound
from stagebox_mixer.api.rack_view import (
    REMOVED,
    ban_on,
    heartbeat_view,
    journal_view,
    presence_view,
    rack_view,
    status_of,
)
from stagebox_mixer.api.services import Services
from stagebox_mixer.commands.service import CommandUnanswered
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry

log = structlog.get_logger()

DENIED = "denied"
STATUSES = (*(status.value for status in PassportStatus), DENIED, REMOVED)
"""What ``?status=`` may ask for."""

Step = Callable[..., Awaitable[RackEntry]]


def add_routes(app: FastAPI, services: Services) -> None:
    """Add them to ``app``."""
    _reading(app, services)
    _changing(app, services)

    @app.post("/api/v1/racks/{name}/check")
    async def check(name: str, request: Request) -> dict[str, Any]:
        """Send a signed command and return the verified answer: proof of who is there, in both directions."""
        caller = await services.access.require(request, Role.OPERATOR)
        await registered(services, name)
        started = time.perf_counter()
        ack = await _sign_of_life(services, name, caller.uri)
        return {
            "v": 1,
            "rack": ack.rack,
            "seq": ack.seq,
            "result": ack.result.value,
            "reason": ack.reason,
            "boot": ack.boot.hex(),
            "time_ns": ack.time_ns,
            "round_trip_ms": round((time.perf_counter() - started) * 1e3, 3),
        }


def _reading(app: FastAPI, services: Services) -> None:
    @app.get("/api/v1/racks")
    async def list_racks(request: Request, status: str | None = None) -> dict[str, Any]:
        await services.access.require(request, Role.VIEWER)
        if status is not None and status not in STATUSES:
            raise InputError(
                f"there is no status {status[:32]!r}", remedy=f"use one of {', '.join(STATUSES)}"
            )
        deny, notes = await services.denials.read(), await services.denials.notes()
        entries = await services.registry.all_racks()
        wanted = [entry for entry in entries if _is(entry, status, ban_on(entry, deny) is not None)]
        return {
            "v": 1,
            "racks": [
                {**rack_view(entry, deny, notes), "presence": presence_view(services.presence.of(entry.name))}
                for entry in wanted
            ],
        }

    @app.get("/api/v1/racks/{name}")
    async def show_rack(name: str, request: Request) -> dict[str, Any]:
        await services.access.require(request, Role.VIEWER)
        entry = await services.registry.rack(name)
        if entry is None:
            raise _unknown(name)
        journals = services.lake.of_rack(name)
        return {
            **await _view(services, entry),
            "connected": await _connected(services, name),
            "presence": presence_view(presence := services.presence.of(name)),
            "heartbeat": heartbeat_view(presence),
            "wal": [journal_view(row) for row in journals],
        }


def _changing(app: FastAPI, services: Services) -> None:
    def post(path: str, step: Step) -> None:
        @app.post(f"/api/v1/racks/{{name}}/{path}", name=path)
        async def take(name: str, request: Request, body: StepRequest | None = None) -> dict[str, Any]:
            caller = await services.access.require(request, Role.ADMIN)
            await registered(services, name)
            reason = body.reason if body is not None else ""
            return await _view(services, await step(name, actor=caller.uri, reason=reason))

    lifecycle = services.lifecycle
    post("approve", lifecycle.approve)
    post("suspend", lifecycle.suspend)
    post("activate", lifecycle.activate)
    post("rotate-secret", lifecycle.rotate_secret)

    @app.delete("/api/v1/racks/{name}")
    async def remove(name: str, request: Request, reason: Reason = "") -> dict[str, Any]:
        caller = await services.access.require(request, Role.ADMIN)
        await registered(services, name)
        return await _view(services, await lifecycle.remove(name, actor=caller.uri, reason=reason))


async def _connected(services: Services, name: str) -> bool | None:
    """Tell whether the rack is on the bus; None if the servers do not say."""
    try:
        return bool(await services.connections.live(user=f"rack:{name}"))
    except (BusError, DecodeError) as error:
        log.warning("connections_unknown", error=error.message)
        return None


async def _sign_of_life(services: Services, name: str, actor: str) -> Ack:
    verb = CommandVerb.STATUS.value
    try:
        async with asyncio.timeout(LIMITS.check_wait_s):
            return await services.commands.send(name, verb, actor=actor, ttl_s=LIMITS.check_ttl_s)
    except TimeoutError:
        # Another command was on its way to this rack and unanswered; ours was never sent.
        raise CommandUnanswered(name, "has other commands to answer first and does not") from None


def _is(entry: RackEntry, wanted: str | None, banned: bool) -> bool:
    if wanted is None:
        return not entry.removed_at
    return banned and not entry.removed_at if wanted == DENIED else status_of(entry) == wanted


async def registered(services: Services, name: str) -> RackEntry:
    """Return a rack that is in the registry and was not removed.

    Raises:
        NotFound: there is none.
    """
    entry = await services.registry.rack(name)
    if entry is None or entry.removed_at:
        raise _unknown(name)
    return entry


async def _view(services: Services, entry: RackEntry) -> dict[str, Any]:
    return rack_view(entry, await services.denials.read(), await services.denials.notes())


def _unknown(name: str) -> NotFound:
    return NotFound(f"no rack {name!r} is registered", remedy="stagebox admin racks list")
