"""The API's ASGI application: bounds in front, one shape for every error, and the routes of each concern."""

from __future__ import annotations

from fastapi import FastAPI

from stagebox_mixer.api import (
    assignments,
    audit,
    denied,
    intake,
    lake,
    listening,
    metrics,
    modules,
    problems,
    public,
    racks,
    tokens,
)
from stagebox_mixer.api.services import Services


def make_app(services: Services) -> FastAPI:
    """Build the ASGI application."""
    app = FastAPI(title="Stagebox mixer", version="1", docs_url=None, redoc_url=None)
    intake.install(app, services.audit)
    problems.install(app)
    for part in (public, tokens, racks, listening, lake, denied, modules, assignments, audit, metrics):
        part.add_routes(app, services)
    return app
