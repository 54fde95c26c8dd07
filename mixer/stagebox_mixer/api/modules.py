"""Wasm modules: seeing them, importing, countersigning again, revoking; and whose are trusted."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request

from stagebox.errors import InputError, ModuleError
from stagebox.identity import Role
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.statement import ModuleLimits
from stagebox_mixer.api.bodies import Reason, RevokeRequest, StepRequest
from stagebox_mixer.api.intake import IMPORT
from stagebox_mixer.api.module_view import module_view, unreadable_view, vendor_view
from stagebox_mixer.api.problems import TooLarge
from stagebox_mixer.api.services import Services
from stagebox_mixer.audit import Row
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.audited import refused
from stagebox_mixer.modules.importing import subject_of
from stagebox_mixer.modules.judging import ImportOptions
from stagebox_mixer.modules.revoking import Revoked

Grants = Annotated[list[str] | None, Query(max_length=FORMAT.max_capabilities)]
Bound = Annotated[int | None, Query()]


def add_routes(app: FastAPI, services: Services) -> None:
    """Add them to ``app``."""
    _reading(app, services)
    _importing(app, services)
    _revoking(app, services)


def _reading(app: FastAPI, services: Services) -> None:
    @app.get(IMPORT)
    async def list_modules(request: Request) -> dict[str, Any]:
        await services.access.require(request, Role.VIEWER)
        catalogue = await services.modules.catalogue()
        entries = sorted(catalogue.modules.values(), key=lambda entry: (entry.name, entry.serial))
        return {
            "v": 1,
            "modules": [module_view(entry, catalogue) for entry in entries],
            "unreadable": [unreadable_view(item) for item in catalogue.unreadable],
        }

    @app.get("/api/v1/modules/{name}")
    async def show_module(name: str, request: Request) -> dict[str, Any]:
        """Return every version of one module, the one countersigned last at the end."""
        await services.access.require(request, Role.VIEWER)
        catalogue = await services.modules.catalogue()
        versions, odd = catalogue.versions(name), catalogue.unreadable_of(name)
        if not versions and not odd:
            raise ModuleError(
                "unknown_module", f"no module {name[:64]!r} was imported", remedy="stagebox wasm list"
            )
        return {
            "v": 1,
            "name": name,
            "versions": [module_view(entry, catalogue) for entry in versions],
            "unreadable": [unreadable_view(item) for _, item in odd],
        }

    @app.get("/api/v1/vendors")
    async def list_vendors(request: Request) -> dict[str, Any]:
        await services.access.require(request, Role.VIEWER)
        catalogue = await services.modules.catalogue()
        return {
            "v": 1,
            "vendors": [vendor_view(vendor, catalogue) for vendor in services.modules.vendors()],
        }


def _importing(app: FastAPI, services: Services) -> None:
    @app.post(IMPORT)
    async def import_module(
        request: Request,
        grant: Grants = None,
        allow_older: bool = False,
        reason: Reason = "",
        fuel_per_block: Bound = None,
        memory_bytes: Bound = None,
        table_elements: Bound = None,
        epoch_ms: Bound = None,
        records_per_s: Bound = None,
        record_bytes: Bound = None,
    ) -> dict[str, Any]:
        """Import the vendor-signed file that is the body."""
        caller = await services.access.require(request, Role.ADMIN)
        data = await _file(request, services, caller.uri)
        given = {
            "fuel_per_block": fuel_per_block,
            "memory_bytes": memory_bytes,
            "table_elements": table_elements,
            "epoch_ms": epoch_ms,
            "records_per_s": records_per_s,
            "record_bytes": record_bytes,
        }
        try:
            granted = _capabilities(grant) if grant is not None else None
        except InputError as refusal:
            services.audit.refused(refused("module_import", subject_of(data), refusal, caller.uri))
            raise
        options = ImportOptions(granted, _limits(given), allow_older=allow_older, reason=reason)
        imported = await services.modules.import_module(data, options, actor=caller.uri)
        return {
            "v": 1,
            "new": imported.new,
            "repaired": imported.repaired,
            "module": module_view(imported.entry, await services.modules.catalogue()),
        }

    @app.post("/api/v1/modules/{name}/{version}/reissue")
    async def reissue(
        name: str, version: str, request: Request, body: StepRequest | None = None
    ) -> dict[str, Any]:
        """Countersign a version again, with a serial that racks take after any other they had."""
        caller = await services.access.require(request, Role.ADMIN)
        reason = body.reason if body is not None else ""
        entry = await services.modules.reissue(name, version, actor=caller.uri, reason=reason)
        return {"v": 1, "module": module_view(entry, await services.modules.catalogue())}


def _revoking(app: FastAPI, services: Services) -> None:
    @app.post("/api/v1/modules/{name}/{version}/revoke")
    async def revoke_module(name: str, version: str, body: RevokeRequest, request: Request) -> dict[str, Any]:
        caller = await services.access.require(request, Role.ADMIN)
        return _revoked(
            await services.modules.revoke_module(name, version, reason=body.reason, actor=caller.uri)
        )

    @app.post("/api/v1/vendors/{vendor}/revoke")
    async def revoke_vendor(vendor: str, body: RevokeRequest, request: Request) -> dict[str, Any]:
        """Revoke all keys of a vendor by its name, or one by its id."""
        caller = await services.access.require(request, Role.ADMIN)
        return _revoked(await services.modules.revoke_vendor(vendor, reason=body.reason, actor=caller.uri))


async def _file(request: Request, services: Services, actor: str) -> bytes:
    """Return the file that is the body, if it may be one by its length."""
    length = int(request.headers.get("content-length", "0"))
    if length > FORMAT.max_module_bytes:
        refusal = TooLarge(f"the request is over {FORMAT.max_module_bytes} bytes")
        detail: dict[str, str | int] = {"message": refusal.message, "bytes": min(length, (1 << 63) - 1)}
        services.audit.refused(Row(actor, "module_import", "unread", "refused", refusal.code, detail))
        raise refusal
    return await request.body()


def _revoked(revoked: Revoked) -> dict[str, Any]:
    return {
        "v": 1,
        "epoch": revoked.epoch,
        "keys": [key.hex() for key in revoked.keys],
        "modules": [
            {"name": entry.name, "version": entry.version, "vendor_digest": entry.vendor_digest.hex()}
            for entry in revoked.modules
        ],
        "unreadable": list(revoked.unread),
    }


def _capabilities(names: list[str]) -> tuple[Capability, ...]:
    try:
        return tuple(Capability(name) for name in names)
    except ValueError:
        known = ", ".join(Capability)
        raise InputError("there is no such capability", remedy=f"grant some of {known}") from None


def _limits(given: dict[str, int | None]) -> ModuleLimits | None:
    """Return the usual limits with what was said otherwise, None if nothing was."""
    said = {name: value for name, value in given.items() if value is not None}
    if not said:
        return None
    usual = LIMITS.module_limits
    return ModuleLimits(**{name: said.get(name, getattr(usual, name)) for name in given})
