"""One-time enrollment tokens: make, list, revoke. A token is shown once, when it is made; later only its id is."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request

from stagebox.identity import Role
from stagebox_mixer.api.bodies import TokenRequest
from stagebox_mixer.api.services import Services
from stagebox_mixer.enrollment.tokens import ListedToken
from stagebox_mixer.registry.model import TokenState


def add_routes(app: FastAPI, services: Services) -> None:
    """Add them to ``app``."""

    @app.post("/api/v1/tokens")
    async def create_token(body: TokenRequest, request: Request) -> dict[str, Any]:
        caller = await services.access.require(request, Role.ADMIN)
        made = await services.enrollment.create_token(
            rack=body.rack, ttl_s=body.ttl_s, machine_id=body.machine_id, actor=caller.uri
        )
        return {
            "v": 1,
            "id": made.id,
            "token": made.token,
            "rack": made.rack,
            "expires_at": made.expires_at,
            "expires_at_ns": made.expires_at,
            "ca_pin": made.ca_pin,
            "mixer": f"https://{request.url.netloc}",
        }

    @app.get("/api/v1/tokens")
    async def list_tokens(request: Request) -> dict[str, Any]:
        await services.access.require(request, Role.VIEWER)
        now_ns = time.time_ns()
        tokens = await services.enrollment.list_tokens()
        return {"v": 1, "tokens": [token_view(token, now_ns) for token in tokens]}

    @app.delete("/api/v1/tokens/{token_id}")
    async def revoke_token(token_id: str, request: Request) -> dict[str, Any]:
        caller = await services.access.require(request, Role.ADMIN)
        revoked = await services.enrollment.revoke_token(token_id, actor=caller.uri)
        return {"v": 1, **token_view(revoked, time.time_ns())}


def token_view(token: ListedToken, now_ns: int) -> dict[str, Any]:
    """Return a token as the API shows it; ``state`` is ``expired`` if it was never used and is too old. Pure."""
    entry = token.entry
    expired = entry.state is TokenState.ISSUED and token.expired(now_ns)
    return {
        "id": token.id,
        "rack": entry.rack,
        "tenant": entry.tenant,
        "state": "expired" if expired else entry.state.value,
        "machine_id": f"{entry.machine_id:016x}" if entry.machine_id else None,
        "created_by": entry.created_by,
        "created_at_ns": entry.created_at,
        "expires_at_ns": entry.expires_at,
        "used_by": entry.used_by.hex() or None,
    }
