"""The routes that need no certificate: health, trust, and the two by which a rack comes by its identity."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import FastAPI, Request, Response

from stagebox_mixer.api.bodies import EnrollRequest
from stagebox_mixer.api.intake import host_of
from stagebox_mixer.api.services import Services


def add_routes(app: FastAPI, services: Services) -> None:
    """Add them to ``app``."""

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
            host=host_of(request),
            held=_bytes(body.passport),
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

    @app.post("/api/v1/racks/renew")
    async def renew(request: Request) -> Response:
        """The same signed bytes as on the snake; a refusal is a signed answer too."""
        answer = await services.lifecycle.renew(await request.body(), via="https", host=host_of(request))
        return Response(answer, media_type="application/octet-stream")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""  # as good as none: it is only there to show that the registry is behind
