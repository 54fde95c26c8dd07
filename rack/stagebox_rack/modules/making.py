"""Makes the module service of one rack from its parts. The files it keeps: docs/reference/module-state.md."""

from __future__ import annotations

from collections.abc import Callable

from stagebox_rack.asking import MixerDesk, RequestBus
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.arranging import Arranger
from stagebox_rack.modules.endings import Denials
from stagebox_rack.modules.fetching import ModuleFetcher
from stagebox_rack.modules.guard import Guard
from stagebox_rack.modules.judging import Judge
from stagebox_rack.modules.library import ModuleLibrary
from stagebox_rack.modules.serials import FILE_NAME as SERIALS
from stagebox_rack.modules.serials import SerialFloors
from stagebox_rack.modules.service import ModuleService, Report
from stagebox_rack.modules.sheet_store import FILE_NAME as SHEET
from stagebox_rack.modules.sheet_store import SheetStore
from stagebox_rack.modules.supply import ModuleSupply
from stagebox_rack.modules.trusted_time import FILE_NAME as TIME
from stagebox_rack.modules.trusted_time import TrustedTime
from stagebox_rack.state import RackIdentity


def make_module_service(
    *,
    bus: RequestBus,
    identity: Callable[[], RackIdentity],
    denials: Denials,
    arranger: Arranger,
    event: Report,
    alert: Report,
    active: bool,
) -> ModuleService:
    """Return the service, not yet started.

    ``identity`` gives the identity that is shown to the mixer at the moment. Its passport's time is the first signed
    time that trusted time knows. ``denials`` is the deny list's witness, loaded before the service is started.
    """
    held = identity()
    passport, directory = held.passport, held.paths.modules
    clock = TrustedTime(directory / TIME)
    clock.heard(passport.issued_at)
    sheets = SheetStore(
        directory / SHEET,
        cluster=passport.cluster_id,
        cluster_public=passport.cluster_public,
        rack=passport.name,
    )
    judge = Judge(
        Guard(passport.cluster_id, passport.cluster_public),
        ModuleLibrary(directory),
        SerialFloors(directory / SERIALS, cluster=passport.cluster_id, rack=passport.name),
    )
    desk = MixerDesk(bus, identity, timeout=LIMITS.module_request_timeout, heard=clock.heard)
    return ModuleService(
        sheets=sheets,
        judge=judge,
        supply=ModuleSupply(desk, ModuleFetcher(desk), serial=lambda: sheets.serial),
        clock=clock,
        denials=denials,
        arranger=arranger,
        event=event,
        alert=alert,
        active=active,
    )
