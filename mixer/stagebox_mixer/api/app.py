"""The API's routes. They translate HTTP to the services and errors to ``{error, message, remedy}``."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware

from stagebox.errors import BusError, EnrollmentError, InputError, StageboxError, StorageError
from stagebox.identity import Role
from stagebox.limits import LIMITS as SHARED
from stagebox_mixer.api.access import Access, Forbidden
from stagebox_mixer.enrollment.machine import EnrollmentRefused
from stagebox_mixer.enrollment.service import EnrollmentService
from stagebox_mixer.ingest.ledger import Ledger, RackLedger
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry
from stagebox_mixer.registry.store import Registry

log = structlog.get_logger()


class _Body(BaseModel):
    # Unknown fields are let through: an old mixer must talk to a newer rack.
    model_config = ConfigDict(extra="ignore", strict=True)


class TokenRequest(_Body):
    """``POST /api/v1/tokens``."""

    rack: str = Field(max_length=SHARED.max_name_chars)
    ttl_s: int = LIMITS.token_default_ttl_s
    machine_id: int = Field(default=0, ge=0, lt=1 << 64)


class EnrollRequest(_Body):
    """``POST /api/v1/racks/enroll``."""

    token: str = Field(max_length=256, repr=False)
    csr: str = Field(max_length=8192)
    machine_id: int = Field(ge=1, lt=1 << 64)
    rack: str | None = Field(default=None, max_length=SHARED.max_name_chars)


class Services:
    """What the routes need."""

    def __init__(
        self,
        *,
        enrollment: EnrollmentService,
        registry: Registry,
        ledger: Ledger,
        access: Access,
        cluster: str,
        roots_pem: bytes,
        snake_port: Callable[[], int],
        health: Callable[[], dict[str, Any]],
    ) -> None:
        self.enrollment = enrollment
        self.registry = registry
        self.ledger = ledger
        self.access = access
        self.cluster = cluster
        self.roots_pem = roots_pem
        self.snake_port = snake_port
        self.health = health


def make_app(services: Services) -> FastAPI:
    """Build the ASGI application."""
    app = FastAPI(title="Stagebox mixer", version="1", docs_url=None, redoc_url=None)
    app.add_middleware(BaseHTTPMiddleware, dispatch=_limit_body)
    app.add_exception_handler(StageboxError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    _public_routes(app, services)
    _admin_routes(app, services)
    return app


def _public_routes(app: FastAPI, services: Services) -> None:
    @app.get("/healthz")
    async def healthz(response: Response) -> dict[str, Any]:
        report = services.health()
        response.status_code = 200 if report["status"] == "ok" else 503
        return report

    @app.get("/api/v1/trust")
    async def trust() -> dict[str, Any]:
        """Public data, checked by its pin before it is believed (see docs/security-model.md)."""
        return {"v": 1, "cluster": services.cluster, "ca": services.roots_pem.decode("ascii")}

    @app.post("/api/v1/racks/enroll")
    async def enroll(body: EnrollRequest, request: Request) -> dict[str, Any]:
        answer = await services.enrollment.enroll(
            token=body.token,
            csr_pem=body.csr.encode("ascii", "replace"),
            machine_id=body.machine_id,
            expected_rack=body.rack,
            host=request.client.host if request.client else "",
        )
        return {
            "v": 1,
            "rack": answer.rack,
            "status": answer.status.value,
            "certificate": answer.certificate_pem.decode("ascii"),
            "chain": answer.chain_pem.decode("ascii"),
            "ca": answer.roots_pem.decode("ascii"),
            "passport": base64.b64encode(answer.passport).decode("ascii"),
            "cluster_public": answer.cluster_public.hex(),
            "snake_port": services.snake_port(),
        }


def _admin_routes(app: FastAPI, services: Services) -> None:
    @app.post("/api/v1/tokens")
    async def create_token(body: TokenRequest, request: Request) -> dict[str, Any]:
        caller = services.access.require(request, Role.ADMIN)
        made = await services.enrollment.create_token(
            rack=body.rack, ttl_s=body.ttl_s, machine_id=body.machine_id, actor=caller.uri
        )
        return {
            "v": 1,
            "token": made.token,
            "rack": made.rack,
            "expires_at": made.expires_at,
            "ca_pin": made.ca_pin,
            "mixer": f"https://{request.url.netloc}",
        }

    @app.get("/api/v1/racks")
    async def list_racks(request: Request) -> dict[str, Any]:
        services.access.require(request, Role.VIEWER)
        return {"v": 1, "racks": [_rack(entry) for entry in await services.registry.all_racks()]}

    @app.get("/api/v1/racks/{name}")
    async def show_rack(name: str, request: Request) -> dict[str, Any]:
        services.access.require(request, Role.VIEWER)
        entry = await services.registry.rack(name)
        if entry is None:
            raise _NotFound(f"no rack {name!r} is registered", remedy="stagebox admin racks list")
        return {**_rack(entry), "wal": [_wal(row) for row in await services.ledger.of_rack(name)]}

    @app.post("/api/v1/racks/{name}/approve")
    async def approve(name: str, request: Request) -> dict[str, Any]:
        caller = services.access.require(request, Role.ADMIN)
        return _rack(await services.enrollment.approve(name, actor=caller.uri))


class _NotFound(InputError):
    """There is no such thing."""


def _rack(entry: RackEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "tenant": entry.tenant,
        "status": entry.status.value,
        "machine_id": f"{entry.machine_id:016x}",
        "public_key": entry.rack_public.hex(),
        "serial": entry.serial,
        "certificate": entry.certificate,
        "certificate_not_after": entry.certificate_not_after,
        "enrolled_at": entry.enrolled_at,
    }


def _wal(row: RackLedger) -> dict[str, Any]:
    return {
        "journal": row.journal.hex(),
        "last": row.last,
        "records": row.records,
        "batches": row.batches,
        "checkpoints": row.checkpoints,
        "proved": row.proved,
        "rejected": row.rejected,
        "missing": row.missing,
    }


async def _limit_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers or not length.isdigit():
        return _problem(411, "length_required", "send the request with a Content-Length", None)
    if int(length) > LIMITS.request_body_bytes:
        return _problem(413, "too_large", f"the request is over {LIMITS.request_body_bytes} bytes", None)
    return await call_next(request)


async def _on_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StageboxError)
    status, code = _classify(error)
    if status >= 500:
        log.error("api_error", error=error.message)
    return _problem(status, code, error.message, error.remedy)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Only where and why: the rejected input may be a secret.
    reasons = "; ".join(
        f"{'.'.join(str(part) for part in item['loc'] if part != 'body')}: {item['msg']}"
        for item in error.errors()
    )
    return _problem(422, "invalid_request", f"the request is not valid: {reasons}", None)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    path = request.url.path
    return _problem(error.status_code, code, f"{request.method} {path}: {error.detail}", None)


def _classify(error: StageboxError) -> tuple[int, str]:
    match error:
        case EnrollmentRefused():
            return 403, error.code
        case Forbidden():
            return 403, "forbidden"
        case _NotFound():
            return 404, "not_found"
        case BusError() | StorageError():
            return 503, "unavailable"
        case InputError() | EnrollmentError():
            return 400, "invalid"
        case _:
            return 400, "refused"


def _problem(status: int, code: str, message: str, remedy: str | None) -> JSONResponse:
    return JSONResponse({"error": code, "message": message, "remedy": remedy}, status_code=status)
