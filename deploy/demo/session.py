"""One run from nothing to an account: keys, mixer, racks, enrollment, the bridge, the end, the count.

The order matters: the subscriber listens before any rack is enrolled, racks stop before they are counted, and the
mixer stops last. Whatever happens, leaving ends every process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import stagebox
from demo import sources
from demo.account import LIVE_KINDS, Account, Arrived, RackEvidence, published
from demo.bridge import RackView, View
from demo.errors import DemoError
from demo.lake import LakeView, open_lake
from demo.limits import LIMITS
from demo.processes import tail
from demo.screen import Screen
from demo.sources import Source, Wanted
from demo.telemetry import RackTelemetry, Telemetry
from demo.throwaway import MixerAddress, ThrowawayCluster, Ticket
from stagebox.errors import StageboxError
from stagebox.listening.lease import LeaseHolder
from stagebox.subjects import Kind

RACKS = ("stage-left", "stage-right")
MONITOR_BUS = "main"
_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclass(frozen=True)
class Options:
    """What the user asked for; ``seconds`` None means until Ctrl-C."""

    seconds: float | None
    source: Wanted


@dataclass
class Stopping:
    """Asked by a signal: ends the bridge while it is shown, cancels ``session`` before that."""

    session: asyncio.Task[Account] | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    bridge_shown: bool = False

    def ask(self) -> None:
        """Stop; asking again changes nothing, the end is bounded anyway."""
        if self.asked.is_set():
            return
        self.asked.set()
        if not self.bridge_shown and self.session is not None:
            self.session.cancel()


class Session:
    """The run in ``directory``."""

    def __init__(self, options: Options, directory: Path, screen: Screen, stopping: Stopping) -> None:
        self._options = options
        self._directory = directory
        self._screen = screen
        self._stopping = stopping
        self._sources: dict[str, Source] = {}
        self._enroll_ms: dict[str, float] = {}
        self._first_frame_ms: dict[str, float] = {}
        self._troubles: list[str] = []

    async def run(self) -> Account:
        """Run it all and return the account.

        Raises:
            DemoError: something did not start or ended by itself.
        """
        async with ThrowawayCluster(self._directory) as cluster:
            mixer, tickets = await self._start(cluster)
            subscriber = stagebox.connect(mixer.snake, cluster.viewer, name="demo")
            async with Telemetry(subscriber, RACKS) as telemetry:
                async with open_lake(mixer.api, cluster.viewer, RACKS) as lake:
                    for name in RACKS:
                        await self._enroll(cluster, mixer, name, tickets[name], telemetry.racks[name])
                    async with self._listening(cluster, mixer, telemetry):
                        seconds = await self._show(cluster, mixer, telemetry, lake)
                    evidence = await self._finish(cluster, telemetry, lake)
                strangers = telemetry.strangers
            await self._noted(cluster.stop_mixer())
        return Account(evidence, mixer.startup_ms, seconds, strangers, tuple(self._troubles))

    async def _start(self, cluster: ThrowawayCluster) -> tuple[MixerAddress, dict[str, Ticket]]:
        self._screen.say("making a throw-away cluster and looking for a capture device ...")
        choosing = sources.choose(self._options.source, RACKS, self._directory)
        _, self._sources = await _both(cluster.make_keys(), choosing)
        for name, source in self._sources.items():
            why = f" ({source.why})" if source.why else ""
            self._screen.say(f"source of {name}: {source.label}{why}")
        mixer = await cluster.start_mixer()
        self._screen.say(f"mixer ready in {mixer.startup_ms:.0f} ms: {mixer.api}, snake {mixer.snake}")
        starting = _all([cluster.start_rack(name, source.spec) for name, source in self._sources.items()])
        _, tickets = await _both(starting, _all([cluster.make_ticket(mixer, name) for name in RACKS]))
        return mixer, dict(zip(RACKS, tickets, strict=True))

    async def _enroll(
        self, cluster: ThrowawayCluster, mixer: MixerAddress, name: str, ticket: Ticket, rack: RackTelemetry
    ) -> None:
        spawned, ended = await cluster.enroll(mixer, name, ticket)
        self._enroll_ms[name] = (ended - spawned) * 1000
        if not await _came(cluster, rack.first_frame, LIMITS.first_frame):
            raise DemoError(
                f"no meter frame of rack {name!r} came in {LIMITS.first_frame:g} s", log=cluster.log(name)
            )
        self._first_frame_ms[name] = (rack.first_frame_at - spawned) * 1000
        self._screen.say(f"{name} enrolled; first meter frame after {self._first_frame_ms[name]:.0f} ms")

    @contextlib.asynccontextmanager
    async def _listening(
        self, cluster: ThrowawayCluster, mixer: MixerAddress, telemetry: Telemetry
    ) -> AsyncIterator[None]:
        """Listen to every rack meanwhile, and begin when all are heard: racks send audio only while somebody does."""
        leases = [LeaseHolder(mixer.api, cluster.viewer, name, MONITOR_BUS) for name in RACKS]
        try:
            await _all([lease.take() for lease in leases])
            for rack in telemetry.racks.values():
                await _came(cluster, rack.heard, LIMITS.first_audio)  # whose is missing, the account says
            yield
        finally:
            await _all([lease.release() for lease in leases])

    async def _show(
        self, cluster: ThrowawayCluster, mixer: MixerAddress, telemetry: Telemetry, lake: LakeView
    ) -> float:
        loop, seconds = asyncio.get_running_loop(), self._options.seconds
        began = loop.time()
        tasks: list[asyncio.Task[object]] = [
            asyncio.create_task(work) for work in (cluster.watch(), self._stopping.asked.wait(), lake.poll())
        ]
        self._stopping.bridge_shown = True
        try:
            with self._screen.bridge() as draw:
                while True:
                    elapsed = loop.time() - began
                    if seconds is not None and elapsed >= seconds:
                        return elapsed
                    telemetry.sweep()
                    draw(self._view(mixer, telemetry, lake, elapsed))
                    pause = 1 / LIMITS.frames_per_second
                    if seconds is not None:
                        pause = min(pause, seconds - elapsed)
                    done, _ = await asyncio.wait(tasks, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                    if self._stopping.asked.is_set():
                        return loop.time() - began
        finally:
            await _cancel(tasks)

    def _view(self, mixer: MixerAddress, telemetry: Telemetry, lake: LakeView, elapsed: float) -> View:
        seconds = self._options.seconds
        return View(
            racks=[
                RackView(rack, self._sources[name].label, lake.committed(name))
                for name, rack in telemetry.racks.items()
            ],
            mixer=f"mixer ready in {mixer.startup_ms:.0f} ms",
            batches=lake.batches,
            elapsed=elapsed,
            remaining=None if seconds is None else seconds - elapsed,
            connected=telemetry.connected,
            glyphs=self._screen.glyphs,
        )

    async def _finish(
        self, cluster: ThrowawayCluster, telemetry: Telemetry, lake: LakeView
    ) -> list[RackEvidence]:
        """Stop the racks, wait for what is under way, and collect what everybody counted."""
        self._screen.say("stopping the racks and checking every record ...")
        await self._noted(cluster.stop_racks())
        journals, _ = await _both(
            _all([self._noted(cluster.verify_journal(name)) for name in RACKS]),
            telemetry.settled(_published),
        )
        records = {
            name: None if journal is None else int(journal["records"])
            for name, journal in zip(RACKS, journals, strict=True)
        }
        await self._noted(lake.settled(records))
        return [
            RackEvidence(
                name=name,
                source=self._sources[name].label,
                arrived={
                    kind: Arrived(rack.kinds[kind].received, rack.kinds[kind].verified) for kind in LIVE_KINDS
                },
                final=None if rack.final is None else rack.final.body,
                journal=journal,
                lake=lake.rows.get(name),
                enroll_to_first_frame_ms=self._first_frame_ms[name],
                enroll_command_ms=self._enroll_ms[name],
            )
            for (name, rack), journal in zip(telemetry.racks.items(), journals, strict=True)
        ]

    async def _noted(self, work: Awaitable[_T]) -> _T | None:
        """Do a part of the end; its failure belongs in the account and must not hide the rest of it."""
        try:
            return await work
        except StageboxError as error:
            self._troubles.append(error.message)
            for line in tail(error.log) if isinstance(error, DemoError) and error.log is not None else ():
                self._screen.say(f"    {line}")
            return None


def _published(rack: RackTelemetry) -> dict[Kind, int] | None:
    if rack.final is None:
        return None
    return {kind: published(rack.final.body, rack.name, kind) for kind in LIVE_KINDS}


async def _all(works: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Do all at once; a failure of one ends the others before it is raised."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
    return [task.result() for task in tasks]


async def _came(cluster: ThrowawayCluster, event: asyncio.Event, within: float) -> bool:
    """Wait for an event while all processes run; whether it came in so many seconds.

    Raises:
        DemoError: a process ended by itself.
    """
    watching = asyncio.create_task(cluster.watch())
    coming = asyncio.create_task(event.wait())
    try:
        done, _ = await asyncio.wait({watching, coming}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if watching in done:
            watching.result()
        return coming in done
    finally:
        await _cancel([watching, coming])


async def _both(first: Coroutine[Any, Any, _T], second: Coroutine[Any, Any, _U]) -> tuple[_T, _U]:
    async with asyncio.TaskGroup() as group:
        one, other = group.create_task(first), group.create_task(second)
    return one.result(), other.result()


async def _cancel(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
