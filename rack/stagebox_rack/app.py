"""The rack's composition root: identity, bus, journal, audio engine and publisher, wired and unwound.

Capture starts whether or not the mixer can be reached: what is measured is journalled first and shipped later.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog
from uuid6 import uuid7

from stagebox import subjects
from stagebox.bus import BusClient, BusOptions, Failure
from stagebox.certificates import to_der
from stagebox.errors import StageboxError
from stagebox.identity import machine_id
from stagebox.systemd import Notifier
from stagebox_rack import state
from stagebox_rack.audio.engine import AudioEngine
from stagebox_rack.audio.measurement import AudioItem
from stagebox_rack.audio.source_uri import parse_sources
from stagebox_rack.checkpointing import CheckpointBuilder
from stagebox_rack.handover import Handover
from stagebox_rack.heartbeat import status_body
from stagebox_rack.limits import LIMITS
from stagebox_rack.publisher import Publisher
from stagebox_rack.settings import RackSettings
from stagebox_rack.state import RackIdentity, StatePaths
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.shipper import Shipper
from stagebox_rack.wal.wal import Wal

log = structlog.get_logger()


class Rack:
    """One running appliance."""

    def __init__(self, settings: RackSettings, identity: RackIdentity) -> None:
        self._settings = settings
        self._identity = identity
        self._name = identity.passport.name
        self._specs = parse_sources(settings.sources)
        self._started = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._exit = contextlib.AsyncExitStack()
        self._early_journal_events: list[JournalEvent] = []
        self._early_items: list[AudioItem] = []
        self._publisher: Publisher | None = None
        self._engine: AudioEngine | None = None

    async def start(self) -> None:
        """Start everything; capture is running when this returns.

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

    async def _start(self) -> None:
        self._handover = handover = Handover[AudioItem](
            asyncio.get_running_loop(), self._take, max_items=LIMITS.handover_items
        )
        self._engine = engine = AudioEngine(
            self._specs, handover.put, monitor_bit_rate=self._settings.monitor_kbit * 1000
        )
        # First of all: a source that cannot be captured must not leave a trace of a start in the journal.
        await asyncio.to_thread(engine.open)
        try:
            publisher = await self._connect_and_journal()
            await asyncio.to_thread(engine.start)
        except BaseException:
            await asyncio.to_thread(engine.stop)
            raise
        self._exit.push_async_callback(self._stop_engine, engine, handover)
        self._run(self._checkpoint_forever(publisher), "checkpoints")
        self._run(self._heartbeat_forever(publisher), "heartbeat")

    async def _connect_and_journal(self) -> Publisher:
        boot = uuid7().bytes
        self._bus = bus = self._make_bus()
        await bus.start()
        self._exit.push_async_callback(bus.close)
        self._wal = wal = await Wal.open(
            self._identity.paths.wal,
            rack=self._name,
            signing_key=self._identity.key,
            boot=boot,
            limits=replace(LIMITS, wal_quota_bytes=self._settings.wal_quota_mib << 20),
            on_event=self._on_journal_event,
        )
        self._exit.push_async_callback(wal.close)
        self._publisher = publisher = Publisher(
            rack=self._name,
            boot=boot,
            bus=bus,
            journal=wal,
            checkpoints=CheckpointBuilder(
                rack=self._name,
                boot=boot,
                chain=to_der(self._identity.chain),
                key=self._identity.key,
                max_digests=LIMITS.checkpoint_digests,
            ),
            now_ns=time.time_ns,
        )
        self._start_shipper(bus, wal)
        self._exit.push_async_callback(self._finish, publisher)
        publisher.event("rack_started", {"boot": boot.hex(), "sources": list(self._settings.sources)})
        self._publish_early(publisher)
        return publisher

    def _publish_early(self, publisher: Publisher) -> None:
        events, self._early_journal_events = self._early_journal_events, []
        for event in events:
            self._on_journal_event(event)
        items, self._early_items = self._early_items, []
        for item in items:
            publisher.take(item)

    def _take(self, item: AudioItem) -> None:
        if self._publisher is None:
            self._early_items.append(item)
        else:
            self._publisher.take(item)

    def healthy(self) -> bool:
        """Whether the watchdog may be fed: every task that keeps the rack going still runs."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    def _make_bus(self) -> BusClient:
        identity = self._identity
        bus = BusClient(
            BusOptions(
                servers=identity.servers,
                name=f"rack:{self._name}",
                ssl_context=identity.tls_context(),
                identity=lambda: identity.key,
                token=lambda: identity.passport.secret,
                inbox_prefix=subjects.inbox_prefix("rack", self._name),
            )
        )
        bus.on_connected(self._on_connected)
        bus.on_disconnected(self._on_disconnected)
        return bus

    def _start_shipper(self, bus: BusClient, wal: Wal) -> None:
        self._shipper = Shipper(
            wal, bus, subjects.wal(self._name), self._identity.key, on_event=self._on_journal_event
        )
        if bus.connected:
            self._shipper.connected()
        self._run(self._shipper.run(), "wal-shipper")

    def _on_connected(self) -> None:
        if self._publisher is not None:
            self._shipper.connected()
            self._publisher.event("snake_connected", {})

    def _on_disconnected(self, failure: Failure) -> None:
        if self._publisher is not None:
            self._shipper.disconnected()
            self._publisher.event("snake_disconnected", {"reason": str(failure)})

    def _on_journal_event(self, event: JournalEvent) -> None:
        if self._publisher is None:
            self._early_journal_events.append(event)
        elif event.severity == "alert":
            # An alert about the journal must not wait for the journal.
            self._publisher.alert(event.name, dict(event.detail), journalled=False)
        else:
            self._publisher.event(event.name, dict(event.detail))

    async def _checkpoint_forever(self, publisher: Publisher) -> None:
        while True:
            await asyncio.sleep(self._settings.checkpoint_interval)
            publisher.checkpoint()

    async def _heartbeat_forever(self, publisher: Publisher) -> None:
        while True:
            self._say_status(publisher, "running")
            await asyncio.sleep(self._settings.heartbeat_interval)

    def _say_status(self, publisher: Publisher, status: str) -> None:
        publisher.status(
            status,
            status_body(
                uptime_s=time.monotonic() - self._started,
                identity=self._identity,
                sources=self._engine.status() if self._engine is not None else (),
                publisher=publisher,
                handover_dropped=self._handover.dropped,
                wal=self._wal.stats(),
                shipper_phase=self._shipper.phase.name.lower(),
                bus=self._bus,
            ),
        )

    async def _stop_engine(self, engine: AudioEngine, handover: Handover[AudioItem]) -> None:
        await asyncio.to_thread(engine.stop)
        handover.drain()

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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _settle(self, publisher: Publisher) -> None:
        """Give the last records a bounded chance to reach the mixer; what does not stays in the journal."""
        with contextlib.suppress(StageboxError, TimeoutError):
            async with asyncio.timeout(LIMITS.stop_drain):
                await publisher.journalled()
                if self._bus.connected:
                    await self._bus.flush()
                    await self._wal.wait_acknowledged(self._wal.committed)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._on_task_done)
        self._tasks.append(task)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            # healthy() turns False, so the service manager restarts the rack; the log says why.
            log.error("task_failed", task=task.get_name(), error=repr(task.exception()))


async def wait_enrolled(paths: StatePaths, stopping: asyncio.Event) -> None:
    """Return when a passport has been stored (or stopping was asked)."""
    log.info("waiting_for_enrollment", state_dir=str(paths.directory))
    while not state.has_passport(paths) and not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LIMITS.enrolled_poll)


async def run(settings: RackSettings, on_ready: Callable[[str], None]) -> None:
    """Run a rack until SIGTERM or SIGINT.

    Raises:
        PassportError: no usable passport (exit code 78). StageboxError: it cannot start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    notifier = Notifier()
    running: list[Rack] = []
    # Fed from the first READY=1 on, also while there is nothing to do but wait for an identity.
    watchdog = asyncio.create_task(notifier.watch(lambda: all(r.healthy() for r in running)), name="watchdog")
    try:
        parse_sources(settings.sources)  # a wrong setting is said now, not after somebody drove out to enroll
        paths = StatePaths(settings.state_dir)
        if settings.wait_for_enrollment and not state.has_passport(paths):
            state.prepare(paths)
            notifier.notify("READY=1", "STATUS=waiting for enrollment")
            await wait_enrolled(paths, stopping)
        if not stopping.is_set():
            await _run_enrolled(settings, paths, stopping, notifier, running, on_ready)
    finally:
        watchdog.cancel()
        await asyncio.gather(watchdog, return_exceptions=True)


async def _run_enrolled(
    settings: RackSettings,
    paths: StatePaths,
    stopping: asyncio.Event,
    notifier: Notifier,
    running: list[Rack],
    on_ready: Callable[[str], None],
) -> None:
    own_machine = settings.machine_id if settings.machine_id is not None else machine_id()
    identity = state.load(paths, machine_id=own_machine)
    state.prepare(paths)
    rack = Rack(settings, identity)
    await rack.start()
    running.append(rack)
    try:
        log.info("rack_ready", rack=identity.passport.name, cluster=identity.passport.cluster_id)
        on_ready(identity.passport.name)
        notifier.notify("READY=1", f"STATUS=running as {identity.passport.name}")
        await stopping.wait()
        notifier.notify("STOPPING=1")
        log.info("rack_stopping")
    finally:
        running.clear()
        await rack.stop()
        log.info("rack_stopped")
