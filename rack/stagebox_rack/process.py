"""The rack as a process: signals, the service manager, and the wait for an identity."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Callable

import structlog

from stagebox.systemd import Notifier
from stagebox.tasks import end_tasks
from stagebox_rack import state
from stagebox_rack.app import Rack
from stagebox_rack.audio_plans import bus_plans, source_plans
from stagebox_rack.identity.store import IdentityStore, identity_store
from stagebox_rack.limits import LIMITS
from stagebox_rack.renewal.service import RenewalPolicy
from stagebox_rack.settings import RackSettings
from stagebox_rack.state import StatePaths

log = structlog.get_logger()


async def wait_enrolled(paths: StatePaths, stopping: asyncio.Event) -> None:
    """Return when a passport has been stored (or stopping was asked)."""
    log.info("waiting_for_enrollment", state_dir=str(paths.directory))
    while not state.has_passport(paths) and not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LIMITS.enrolled_poll)


async def run(settings: RackSettings, on_ready: Callable[[str], None]) -> None:
    """Run a rack until SIGTERM or SIGINT; SIGHUP makes it look for a renewed identity at once.

    Raises:
        PassportError: no usable passport (exit code 78). StageboxError: it cannot start.
    """
    stopping = asyncio.Event()
    running: list[Rack] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, _look_for_identity, running)
    notifier = Notifier()
    # Fed from the first READY=1 on, also while there is nothing to do but wait for an identity.
    watchdog = asyncio.create_task(notifier.watch(lambda: all(r.healthy() for r in running)), name="watchdog")
    try:
        # A wrong setting is said now, not after somebody drove out to enroll.
        bus_plans(settings, source_plans(settings))
        RenewalPolicy.of(settings)
        store = identity_store(settings)
        if settings.wait_for_enrollment and not state.has_passport(store.paths):
            state.prepare(store.paths)
            notifier.notify("READY=1", "STATUS=waiting for enrollment")
            await wait_enrolled(store.paths, stopping)
        if not stopping.is_set():
            await _run_enrolled(settings, store, stopping, notifier, running, on_ready)
    finally:
        await end_tasks([watchdog])


def _look_for_identity(running: list[Rack]) -> None:
    for rack in running:
        rack.look_for_identity()


def settle() -> None:
    """Tune the interpreter of a rack that is up, for live data.

    What is loaded by now stays: looking through it again and again would stop metering for a tenth of a second. And a
    thread that reads a backlog hands on within half a millisecond instead of five.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(0.0005)


async def _run_enrolled(
    settings: RackSettings,
    store: IdentityStore,
    stopping: asyncio.Event,
    notifier: Notifier,
    running: list[Rack],
    on_ready: Callable[[str], None],
) -> None:
    held = store.open()
    state.prepare(store.paths)
    rack = Rack(settings, store, held)
    await rack.start()
    running.append(rack)
    settle()
    passport = held.newest.passport
    try:
        log.info("rack_ready", rack=passport.name, cluster=passport.cluster_id, state=rack.mode)
        on_ready(passport.name)
        notifier.notify("READY=1", f"STATUS={rack.mode} as {passport.name}")
        await stopping.wait()
        notifier.notify("STOPPING=1")
        log.info("rack_stopping")
    finally:
        running.clear()
        await rack.stop()
        log.info("rack_stopped")
