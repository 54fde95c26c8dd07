"""Every error as one shape of answer: ``{error, message, remedy}``, without the input that caused it."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stagebox.errors import (
    BusError,
    EnrollmentError,
    InputError,
    ModuleError,
    StageboxError,
    StorageError,
)
from stagebox_mixer.api.access import Forbidden
from stagebox_mixer.commands.service import CommandUnanswered
from stagebox_mixer.denial import DeniedError
from stagebox_mixer.enrollment.machine import EnrollmentRefused
from stagebox_mixer.lifecycle.refusals import LifecycleRefused
from stagebox_mixer.listening.service import ListenRefused

log = structlog.get_logger()

_UNKNOWN = frozenset({"unknown_module", "unknown_assignment", "unknown_vendor"})


class NotFound(InputError):
    """There is no such thing."""


class TooLarge(InputError):
    """The body is over what its route takes."""

    code = "too_large"


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error in the one shape."""
    app.add_exception_handler(StageboxError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)


def problem(
    status: int, code: str, message: str, remedy: str | None = None, *, retry_after_s: int | None = None
) -> JSONResponse:
    """Return the answer of that shape."""
    headers = {"retry-after": str(retry_after_s)} if retry_after_s is not None else None
    return JSONResponse({"error": code, "message": message, "remedy": remedy}, status, headers)


async def _on_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StageboxError)
    status, code = _classify(error)
    if status >= 500:
        log.error("api_error", error=error.message)
    return problem(status, code, error.message, error.remedy)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Only where and why: the rejected input may be a secret.
    reasons = "; ".join(
        f"{'.'.join(str(part) for part in item['loc'] if part != 'body')}: {item['msg']}"
        for item in error.errors()
    )
    return problem(422, "invalid_request", f"the request is not valid: {reasons}")


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return problem(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}")


def _classify(error: StageboxError) -> tuple[int, str]:
    match error:
        case DeniedError() | EnrollmentRefused() | LifecycleRefused():
            return 403, error.code
        case Forbidden():
            return 403, "forbidden"
        case NotFound():
            return 404, "not_found"
        case TooLarge():
            return 413, error.code
        case ModuleError():
            return (404 if error.code in _UNKNOWN else 403), error.code
        case ListenRefused():
            return 409, error.code
        case CommandUnanswered():
            return 504, "unanswered"
        case BusError() | StorageError():
            return 503, "unavailable"
        case InputError() | EnrollmentError():
            return 400, "invalid"
        case _:
            return 400, "refused"
