"""What is refused before a body is read: too long, of unknown length, or too often from one source."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from starlette.middleware.base import BaseHTTPMiddleware

from stagebox_mixer.api.ports import Audit
from stagebox_mixer.api.problems import problem
from stagebox_mixer.audit import Row
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.source_rate import SourceRate, source_of

IMPORT = "/api/v1/modules"
"""The one route that takes a file, and bounds it itself."""

PUBLIC_ACTIONS = {"/api/v1/racks/enroll": "enroll", "/api/v1/racks/renew": "renew"}
"""Routes that anybody may post to, and the audit action of a refusal there."""


def install(app: FastAPI, audit: Audit) -> None:
    """Put the bounds in front of ``app``."""
    rate = SourceRate(per_s=LIMITS.public_per_s, burst=LIMITS.public_burst, max_sources=LIMITS.public_sources)

    async def admit(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        refusal = _too_often(request, rate, audit) or _too_long(request)
        return refusal if refusal is not None else await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=admit)


def host_of(request: Request) -> str:
    """Return the address the request came from, empty if it is not known."""
    return request.client.host if request.client else ""


def _too_often(request: Request, rate: SourceRate, audit: Audit) -> Response | None:
    action = PUBLIC_ACTIONS.get(request.url.path)
    if action is None or request.method != "POST":
        return None
    host = host_of(request)
    wait_s = rate.wait_s(source_of(host), time.monotonic())
    if not wait_s:
        return None
    audit.refused(Row(host, action, "unknown", "refused", "too_many_requests", {"host": host}))
    return problem(
        429,
        "too_many_requests",
        "this address asks too often",
        "wait a moment and try again",
        retry_after_s=math.ceil(wait_s),
    )


def _too_long(request: Request) -> Response | None:
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers or not (length.isascii() and length.isdigit()):
        return problem(411, "length_required", "send the request with a Content-Length")
    if request.url.path == IMPORT and request.method == "POST":
        return None  # refused by the route, which knows whom to name in the audit
    if int(length) > LIMITS.request_body_bytes:
        return problem(413, "too_large", f"the request is over {LIMITS.request_body_bytes} bytes")
    return None
