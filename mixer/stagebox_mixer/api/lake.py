"""The lake over HTTPS: one kind of record as an Arrow IPC stream, and legal holds."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from stagebox.errors import InputError
from stagebox.identity import Role, check_name
from stagebox_mixer.api.bodies import HoldRequest
from stagebox_mixer.api.problems import NotFound
from stagebox_mixer.api.services import Services
from stagebox_mixer.audit import Row
from stagebox_mixer.lake.reading import Span
from stagebox_mixer.lake.state import Hold

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_ROWS = 1 << 14


def add_routes(app: FastAPI, services: Services) -> None:
    """Add them to ``app``."""

    @app.get("/api/v1/lake/kinds")
    async def kinds(request: Request) -> dict[str, Any]:
        """Return what kinds of record there are, sorted or just arrived."""
        await services.access.require(request, Role.VIEWER)
        listing = await asyncio.to_thread(services.lake.reader().listing)
        return {"v": 1, "kinds": sorted({line.kind for line in listing})}

    @app.get("/api/v1/lake/records/{kind}")
    async def records(
        kind: str, request: Request, rack: str = "", first: str = "", last: str = ""
    ) -> StreamingResponse:
        """Stream every record of one kind, with its typed columns; dates are UTC and both in."""
        await services.access.require(request, Role.VIEWER)
        span = _span(rack, first, last)
        dataset = await asyncio.to_thread(services.lake.reader().dataset, kind, span)
        return StreamingResponse(_stream(dataset), media_type=MEDIA_TYPE)

    @app.get("/api/v1/lake/holds")
    async def holds(request: Request) -> dict[str, Any]:
        await services.access.require(request, Role.VIEWER)
        return {"v": 1, "holds": [_view(hold) for hold in services.lake.state().holds]}

    @app.post("/api/v1/lake/holds")
    async def hold(body: HoldRequest, request: Request) -> dict[str, Any]:
        """Keep records from being removed for their age, whatever the mixer's settings say."""
        caller = await services.access.require(request, Role.ADMIN)
        span = _span(body.rack, body.first, body.last)
        wanted = Hold(
            check_name("hold", body.name),
            span.rack,
            span.first or "0001-01-01",
            span.last or "9999-12-31",
            body.reason,
        )
        await services.audit.record(
            Row(caller.uri, "lake_hold", wanted.name, "ok", body.reason, _view(wanted))
        )
        await services.lake.hold(wanted.name, wanted)
        return {"v": 1, **_view(wanted)}

    @app.delete("/api/v1/lake/holds/{name}")
    async def release(name: str, request: Request, reason: str = "") -> dict[str, Any]:
        caller = await services.access.require(request, Role.ADMIN)
        if all(hold.name != name for hold in services.lake.state().holds):
            raise NotFound(f"there is no hold {name!r}", remedy="stagebox lake holds")
        await services.audit.record(Row(caller.uri, "lake_release", name, "ok", reason[:200], {}))
        await services.lake.hold(name, None)
        return {"v": 1, "name": name}


def _span(rack: str, first: str, last: str) -> Span:
    for date in (first, last):
        if date and not _DATE.fullmatch(date):
            raise InputError(f"{date[:32]!r} is no date", remedy="write it as 2026-11-27 (UTC)")
    return Span(check_name("rack", rack) if rack else "", first, last)


def _view(hold: Hold) -> dict[str, str | int]:
    return {
        "name": hold.name,
        "rack": hold.rack,
        "first": hold.first,
        "last": hold.last,
        "reason": hold.reason,
    }


def _stream(dataset: Any) -> Iterator[bytes]:
    """Yield the stream piece by piece; Starlette takes each piece from a worker thread."""
    from pyarrow import ipc

    sink = io.BytesIO()
    with ipc.new_stream(sink, dataset.schema) as writer:
        yield _taken(sink)
        for batch in dataset.to_batches(batch_size=_ROWS):
            writer.write_batch(batch)
            yield _taken(sink)
    yield _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data
