"""The rack's composition root: identity, bus, journal, capture, publisher and control, wired and unwound.

Capture starts whether or not the mixer can be reached: what is measured is journalled first and shipped later. What
the rack may do is said by the newest passport it holds: active, it captures and ships; pending or suspended, it says
that it lives, hears commands, and asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import structlog
from uuid6 import uuid7

from stagebox import subjects
from stagebox.bus import BusClient, BusOptions, Failure
from stagebox.certificates import to_der
from stagebox.errors import StageboxError
from stagebox.passport import PassportStatus
from stagebox.tasks import end_tasks
from stagebox_rack.audio.engine import AudioEngine
from stagebox_rack.audio.insert import InsertPoints
from stagebox_rack.audio.measurement import AudioItem
from stagebox_rack.audio_commands import AudioCommands
from stagebox_rack.audio_plans import bus_plans, source_plans
from stagebox_rack.capturing import Capturing
from stagebox_rack.checkpointing import CheckpointBuilder
from stagebox_rack.clock_state import clock_quality
from stagebox_rack.control import Control
from stagebox_rack.early import Early
from stagebox_rack.handover import Handover
from stagebox_rack.heartbeat import status_body
from stagebox_rack.host import HostSampler
from stagebox_rack.identity import succession
from stagebox_rack.identity.denied import DenyListWitness
from stagebox_rack.identity.store import Held, IdentityStore
from stagebox_rack.identity.takeover import Takeover
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.modules.wiring import Modules
from stagebox_rack.monitor.service import MonitorService
from stagebox_rack.publisher import Publisher
from stagebox_rack.rights import Rights
from stagebox_rack.settings import RackSettings
from stagebox_rack.state import RackIdentity
from stagebox_rack.wal.shipper import Shipper
from stagebox_rack.wal.wal import Wal

log = structlog.get_logger()

_STATES = {
    PassportStatus.ACTIVE: "running",
    PassportStatus.PENDING: "pending",
    PassportStatus.SUSPENDED: "suspended",
}


def _journal_limits(settings: RackSettings) -> RackLimits:
    return replace(
        LIMITS,
        wal_quota_bytes=settings.wal_quota_mib << 20,
        wal_grace=settings.wal_grace_hours * 3600,
        wal_commit_window=settings.wal_commit_ms / 1000,
    )


class Rack:
    """One running appliance."""

    def __init__(self, settings: RackSettings, store: IdentityStore, held: Held) -> None:
        self._settings = settings
        self._paths = store.paths
        self._name = held.main.passport.name
        self._status = held.newest.passport.status
        self._takeover = Takeover(store, held, self, wall=time.time)
        self._credentials = self._takeover.credentials
        self._plans = source_plans(settings)
        self._buses = bus_plans(settings, self._plans)
        self._host = HostSampler(store.paths.directory)
        self._started = time.monotonic()
        self._boot = uuid7().bytes
        self._tasks: list[asyncio.Task[None]] = []
        self._exit = contextlib.AsyncExitStack()
        self._early = Early()
        self._publisher: Publisher | None = None
        self._rights: Rights | None = None
        self._control: Control | None = None
        self._modules: Modules | None = None
        self._meter_inserts, self._monitor_inserts = InsertPoints(), InsertPoints()

    async def start(self) -> None:
        """Start everything; capture is running when this returns, if the passport is active.

        Raises:
            StageboxError: a source, the journal or the identity cannot be used; nothing is left running.
        """
        try:
            await self._start()
        except BaseException:
            await self._exit.aclose()
            raise

    async def stop(self) -> None:
        """Stop capture, send and journal the last records, ship what can be shipped, close."""
        await self._exit.aclose()

    @property
    def mode(self) -> str:
        """The state that heartbeats tell: ``running``, ``pending`` or ``suspended``."""
        return _STATES[self._status]

    def healthy(self) -> bool:
        """Whether the watchdog may be fed: every task that keeps the rack going still runs."""
        running = bool(self._tasks) and not any(task.done() for task in self._tasks)
        return running and self._bus.supervised and (self._control is None or self._control.healthy())

    def modules(self) -> list[dict[str, Any]]:
        """Return what heartbeats say of modules, now."""
        return self._modules.status() if self._modules is not None else []

    def look_for_identity(self) -> None:
        """Look at once for an identity that another process staged."""
        self._takeover.look_soon()

    # --- wiring ------------------------------------------------------------------------------------

    async def _start(self) -> None:
        handover = self._handover = Handover[AudioItem](
            asyncio.get_running_loop(), self._early.take, max_items=LIMITS.handover_items
        )
        self._capturing = capturing = Capturing(
            self._make_engine, handover, alert=self.alert, started=self._on_captured
        )
        self._monitor = monitor = MonitorService(
            self._buses,
            tap=capturing.tap,
            emit=handover.put,
            event=self.event,
            inserts=self._monitor_inserts,
        )
        self._exit.push_async_callback(capturing.stop)
        if self._status is PassportStatus.ACTIVE:
            # First of all: a source that cannot be captured must not leave a trace of a start in the journal.
            await capturing.open()
        publisher = await self._connect_and_journal()
        modules = await self._start_modules(publisher)
        self._exit.push_async_callback(capturing.stop)
        self._exit.push_async_callback(monitor.stop)
        if self._status is PassportStatus.ACTIVE:
            await capturing.start()
        control = self._control = Control(
            bus=self._bus,
            takeover=self._takeover,
            paths=self._paths,
            settings=self._settings,
            boot=self._boot,
            publisher=publisher,
            say_status=lambda: self._say_status(publisher, self.mode),
            witness=self._witness,
            handlers={**AudioCommands(monitor, capturing).handlers(), **modules.handlers()},
        )
        await control.start()
        self._exit.push_async_callback(control.stop)
        for name, work in (*control.work(), *modules.work()):
            self._run(work, name)
        self._run(monitor.run(), "monitor")
        self._run(self._host.run(), "host")
        self._run(self._checkpoint_forever(publisher), "checkpoints")
        self._run(self._heartbeat_forever(publisher), "heartbeat")

    def _make_engine(self) -> AudioEngine:
        return AudioEngine(self._plans, self._handover.put, inserts=self._meter_inserts)

    async def _start_modules(self, publisher: Publisher) -> Modules:
        passport = self._credentials.held.main.passport
        self._witness = DenyListWitness(
            self._paths.denied, cluster=passport.cluster_id, cluster_public=passport.cluster_public
        )
        self._witness.load()
        modules = Modules(
            bus=self._bus,
            takeover=self._takeover,
            witness=self._witness,
            publisher=publisher,
            meters=self._meter_inserts,
            monitors=self._monitor_inserts,
            tap=self._capturing.tap,
            buses=self._buses,
            hosts=self._settings.module_hosts or None,
            active=self._status is PassportStatus.ACTIVE,
        )
        self._exit.push_async_callback(modules.stop)
        await modules.start()
        self._modules = modules
        return modules

    async def _connect_and_journal(self) -> Publisher:
        identity = self._credentials.held.main
        self._bus = bus = self._make_bus()
        self._takeover.attach(bus)
        await bus.start()
        self._exit.push_async_callback(bus.close)
        earlier = succession.earlier_keys(self._paths, self._name, identity.public)
        self._wal = wal = await self._open_journal(identity, earlier)
        self._exit.push_async_callback(wal.close)
        self._checkpoints = CheckpointBuilder(
            rack=self._name,
            boot=self._boot,
            chain=to_der(identity.chain),
            key=identity.key,
            max_digests=LIMITS.checkpoint_digests,
        )
        publisher = Publisher(
            rack=self._name,
            boot=self._boot,
            bus=bus,
            journal=wal,
            checkpoints=self._checkpoints,
            now_ns=time.time_ns,
        )
        self._shipper = Shipper(
            wal,
            bus,
            subjects.wal(self._name),
            identity.key,
            earlier=earlier,
            on_event=self._early.journal_event,
        )
        self._publisher = publisher
        self._rights = Rights(bus, publisher, self._shipper)
        self._early.attach(publisher)
        self._use_rights(fresh=True)
        self._run(self._shipper.run(), "wal-shipper")
        self._exit.push_async_callback(self._finish, publisher)
        detail = {"boot": self._boot.hex(), "sources": list(self._settings.sources), "state": self.mode}
        publisher.event("rack_started", detail)
        self._early.hand_over()
        return publisher

    async def _open_journal(self, identity: RackIdentity, earlier: tuple[bytes, ...]) -> Wal:
        return await Wal.open(
            self._paths.wal,
            rack=self._name,
            signing_key=identity.key,
            earlier=earlier,
            boot=self._boot,
            limits=_journal_limits(self._settings),
            key_protection=self._settings.wal_key_protection,
            on_event=self._early.journal_event,
            clock_quality=clock_quality,
        )

    def _make_bus(self) -> BusClient:
        credentials = self._credentials
        bus = BusClient(
            BusOptions(
                servers=credentials.held.newest.servers,
                name=f"rack:{self._name}",
                ssl_context=credentials.context,
                identity=credentials.key,
                token=credentials.secret,
                inbox_prefix=subjects.inbox_prefix("rack", self._name),
            )
        )
        bus.on_connected(self._on_connected)
        bus.on_disconnected(self._on_disconnected)
        bus.on_attempt_failed(self._takeover.on_failed)
        return bus

    # --- rights ------------------------------------------------------------------------------------

    async def obey(self, status: PassportStatus) -> None:
        """Do what the newest passport says; what it forbids has ended on return, modules last: they may hang."""
        previous, self._status = self._status, status
        if status is PassportStatus.ACTIVE:
            if previous is not status:
                self.event("activated", {"before": previous.value})
                self._capturing.start_soon()
        else:
            await self._monitor.stop()
            await self._capturing.stop()
            if previous is not status:
                self.event("suspended", {"status": status.value})
        self._use_rights()
        if self._modules is not None:
            await self._modules.obey(active=status is PassportStatus.ACTIVE)
        if previous is not status and self._publisher is not None:
            self._say_status(self._publisher, self.mode)

    async def proved(self, previous: RackIdentity, identity: RackIdentity) -> None:
        """Sign with the identity that the mixer admitted, from the next record on."""
        self._checkpoints.rebind(chain=to_der(identity.chain), key=identity.key)
        if identity.public != previous.public:
            self._shipper.rekey(identity.key)
            await self._wal.rekey(identity.key)
        self._use_rights()

    def _use_rights(self, *, fresh: bool = False) -> None:
        if self._rights is not None:
            self._rights.use(self._status, self._credentials.active.passport.status, fresh=fresh)

    # --- what happens ------------------------------------------------------------------------------

    def event(self, name: str, detail: dict[str, Any]) -> None:
        """Publish something that happened."""
        self._early.event(name, detail)

    def alert(self, name: str, detail: dict[str, Any]) -> None:
        """Publish something that needs attention."""
        self._early.alert(name, detail)

    def _on_connected(self) -> None:
        self._takeover.on_connected()
        self._use_rights(fresh=True)
        self.event("snake_connected", {})
        if self._control is not None:
            self._control.connected()
        if self._modules is not None:
            self._modules.connected()

    def _on_captured(self) -> None:
        if self._modules is not None:
            self._modules.captured_soon()

    def _on_disconnected(self, failure: Failure) -> None:
        self._use_rights()
        self.event("snake_disconnected", {"reason": str(failure)})

    async def _checkpoint_forever(self, publisher: Publisher) -> None:
        while True:
            await asyncio.sleep(self._settings.checkpoint_interval)
            publisher.checkpoint()

    async def _heartbeat_forever(self, publisher: Publisher) -> None:
        while True:
            self._say_status(publisher, self.mode)
            await asyncio.sleep(self._settings.heartbeat_interval)

    def _say_status(self, publisher: Publisher, status: str) -> None:
        if self._control is None:
            return
        publisher.status(
            status,
            status_body(
                uptime_s=time.monotonic() - self._started,
                identity=self._credentials.held.newest,
                sources=self._capturing.status(),
                buses=self._monitor.status(),
                host=self._host.latest(),
                publisher=publisher,
                handover_dropped=self._handover.dropped,
                wal=self._wal.stats(),
                shipper_phase=self._shipper.phase.name.lower(),
                bus=self._bus,
                renewal=self._control.renewal_facts(),
                modules=self.modules(),
            ),
        )

    # --- the end -----------------------------------------------------------------------------------

    async def _finish(self, publisher: Publisher) -> None:
        """Send the last records of a stopping rack, then end the tasks."""
        publisher.event("rack_stopping", {})
        for task in self._tasks:
            if task.get_name() != "wal-shipper":
                task.cancel()
        publisher.checkpoint()
        self._say_status(publisher, "stopping")
        publisher.checkpoint()
        await self._settle(publisher)
        await end_tasks(self._tasks)

    async def _settle(self, publisher: Publisher) -> None:
        """Give the last records a bounded chance to reach the mixer; what does not stays in the journal."""
        with contextlib.suppress(StageboxError, TimeoutError):
            async with asyncio.timeout(LIMITS.stop_drain):
                await publisher.journalled()
                if self._bus.connected:
                    await self._bus.flush()
                    if not publisher.limited:
                        await self._wal.wait_acknowledged(self._wal.committed)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._on_task_done)
        self._tasks.append(task)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            # healthy() turns False, so the service manager restarts the rack; the log says why.
            log.error("task_failed", task=task.get_name(), error=repr(task.exception()))
