"""Listening to racks on demand, and starting their loudness meters again."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request

from stagebox.control.command import AckResult, CommandVerb
from stagebox.control.listen import ResetMeters
from stagebox.errors import BusError
from stagebox.identity import Role
from stagebox_mixer.api.bodies import ListenRequest, ResetMetersRequest
from stagebox_mixer.api.racks import registered
from stagebox_mixer.api.services import Services
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.listening.service import ListenRefused


def add_routes(app: FastAPI, services: Services) -> None:
    """Add them to ``app``."""

    @app.post("/api/v1/racks/{name}/listen")
    async def listen(name: str, request: Request, body: ListenRequest) -> dict[str, Any]:
        """Take or renew a lease on a monitor bus."""
        caller = await services.access.require(request, Role.VIEWER)
        await registered(services, name)
        granted = await services.listening.listen(name, body.bus, body.ttl_s, caller.uri, body.lease)
        return {
            "v": 1,
            "rack": granted.rack,
            "bus": granted.bus,
            "lease": granted.lease,
            "ttl_s": granted.ttl_s,
            "subject": granted.subject,
        }

    @app.delete("/api/v1/racks/{name}/listen/{bus}/{lease}")
    async def release(name: str, bus: str, lease: str, request: Request) -> dict[str, Any]:
        """End a lease."""
        caller = await services.access.require(request, Role.VIEWER)
        await services.listening.release(name, bus, lease, caller.uri)
        return {"v": 1, "rack": name, "bus": bus, "lease": lease}

    @app.post("/api/v1/racks/{name}/reset-meters")
    async def reset_meters(
        name: str, request: Request, body: ResetMetersRequest | None = None
    ) -> dict[str, Any]:
        """Start integrated loudness, range and maxima again."""
        caller = await services.access.require(request, Role.OPERATOR)
        await registered(services, name)
        wanted = ResetMeters(*((body.source, body.programme) if body is not None else ()))
        try:
            async with asyncio.timeout(LIMITS.check_wait_s):
                ack = await services.commands.send(
                    name,
                    CommandVerb.RESET_METERS,
                    wanted.args(),
                    actor=caller.uri,
                    ttl_s=LIMITS.check_ttl_s,
                )
        except TimeoutError:
            raise BusError(f"rack {name!r} has other commands to answer first") from None
        if ack.result is not AckResult.DONE:
            raise ListenRefused(
                ack.reason,
                f"rack {name!r} did not reset its meters: {ack.result.value}, {ack.reason}",
                remedy=f"see its sources and programmes with `stagebox admin racks show {name}`",
            )
        return {"v": 1, "rack": name, "source": wanted.source or None, "programme": wanted.programme or None}
