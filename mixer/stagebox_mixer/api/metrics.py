"""``/metrics`` for Prometheus: what to alarm on, read anew at every scrape."""

from __future__ import annotations

import time

from fastapi import FastAPI, Request, Response

from stagebox.identity import Role
from stagebox_mixer.api.services import Services


def add_routes(app: FastAPI, services: Services) -> None:
    """Add the route to ``app``."""

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        await services.access.require(request, Role.VIEWER)
        # 40 ms of imports that nobody's mixer shall start later for.
        from stagebox_mixer.api import exposition

        racks = await services.registry.all_racks()
        snapshot = exposition.Snapshot(
            racks=racks,
            presence={entry.name: services.presence.of(entry.name) for entry in racks},
            deny=await services.denials.read(),
            audit_last=services.audit.head().seq,
            healthy=services.health()["status"] == "ok",
            counters=services.counters(),
            certificate_days=services.certificate_days,
            now_s=time.time(),
        )
        body, content_type = exposition.text(snapshot, request.headers.get("accept", ""))
        return Response(body, media_type=content_type)
