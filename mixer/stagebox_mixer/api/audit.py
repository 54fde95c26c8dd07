"""The audit's rows as they are stored, so that whoever reads them can verify the chain without believing the mixer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request

from stagebox.identity import Role
from stagebox_mixer.api.services import Services
from stagebox_mixer.limits import LIMITS

After = Annotated[int, Query(ge=0, lt=1 << 63)]
Limit = Annotated[int, Query(ge=1, le=LIMITS.audit_page_rows)]


def add_routes(app: FastAPI, services: Services) -> None:
    """Add the route to ``app``."""

    @app.get("/api/v1/audit")
    async def page(
        request: Request, after: After = 0, limit: Limit = LIMITS.audit_page_rows
    ) -> dict[str, Any]:
        await services.access.require(request, Role.OPERATOR)
        # Read before the rows: what comes meanwhile is on the next page, never missing from this one.
        last = await services.audit_reader.last()
        rows = await services.audit_reader.page(after, limit)
        witness = services.audit.witness()
        return {
            "v": 1,
            "rows": [{"seq": row.seq, "data": row.text} for row in rows],
            "last": last,
            "witness": {"seq": witness.seq, "head": witness.hash} if witness is not None else None,
        }
