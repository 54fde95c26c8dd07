"""The audio engine: every source captured once into a ring, measured in a thread, tapped by whoever else asks.

For each source there is a capture thread that only copies into the ring, and one thread ``meters-<name>`` that reads
it. Other consumers open a cursor of their own through :meth:`AudioEngine.tap`. Rules: `emit` is called from those
threads and must not block (the caller hands over through something bounded and counts its own drops); one source's
failure is an event and never another source's; `start` either starts every source or leaves nothing running.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from stagebox.errors import ConfigError, StageboxError
from stagebox_rack.audio.capture import Capture, CaptureClock, StreamFormat
from stagebox_rack.audio.channel_map import ChannelMap
from stagebox_rack.audio.insert import InsertPoint, InsertPoints
from stagebox_rack.audio.measurement import AudioItem, EventValue, SourceEvent, SourceState, SourceStatus
from stagebox_rack.audio.pipeline import SourcePipeline
from stagebox_rack.audio.plan import SourcePlan
from stagebox_rack.audio.ring import Cursor, Ring
from stagebox_rack.audio.source_uri import SourceSpec
from stagebox_rack.audio.sources import make_capture
from stagebox_rack.limits import LIMITS

Emit = Callable[[AudioItem], None]
Capturer = Callable[[SourceSpec, Emit, CaptureClock], Capture]

log = structlog.get_logger()


@dataclass(frozen=True)
class Tap:
    """A way into one source's audio: its format and map, and cursors of one's own."""

    format: StreamFormat
    map: ChannelMap
    _ring: Ring = field(repr=False)

    def open(self) -> Cursor:
        """A cursor that reads what is captured from now on."""
        return self._ring.open_cursor()

    def close(self, cursor: Cursor) -> None:
        """Let go of a cursor."""
        self._ring.close_cursor(cursor)


class AudioEngine:
    """Runs ``sources``, planned or plain; everything their meters give goes to ``emit``."""

    def __init__(
        self,
        sources: Sequence[SourceSpec | SourcePlan],
        emit: Emit,
        *,
        clock: CaptureClock | None = None,
        capturer: Capturer = make_capture,
        inserts: InsertPoints | None = None,
    ) -> None:
        """Make the engine, idle. What sits at ``inserts``, by source, comes before the meters.

        ``capturer`` is for tests.
        """
        self._plans = tuple(one if isinstance(one, SourcePlan) else SourcePlan(one) for one in sources)
        self._emit = emit
        self._clock = clock or CaptureClock()
        self._capturer = capturer
        self._inserts = inserts or InsertPoints()
        self._runners: tuple[SourceRunner, ...] = ()
        self._started = False

    def open(self) -> None:
        """Open every source; nothing is captured yet.

        Raises:
            CaptureError: a device is missing or refuses the format, or PortAudio is missing.
            InputError: a file cannot be used.
            ConfigError: a setting does not fit the source.
        """
        if self._runners:
            raise RuntimeError("the engine was opened before")
        runners: list[SourceRunner] = []
        try:
            for plan in self._plans:
                capture = self._capturer(plan.spec, self._emit, self._clock)
                insert = self._inserts.at(plan.name)
                runners.append(SourceRunner(plan, capture, self._emit, self._clock, insert))
        except BaseException:
            for runner in runners:
                runner.stop()
            raise
        self._runners = tuple(runners)

    def start(self) -> None:
        """Start every source, opening them first if that was not done.

        Raises:
            CaptureError, InputError, ConfigError: as :meth:`open`.
        """
        if self._started:
            raise RuntimeError("the engine was started before")
        if not self._runners:
            self.open()
        self._started = True
        for runner in self._runners:
            runner.start()

    def stop(self) -> None:
        """Stop capture, let every source's last frames through, and join all threads."""
        for runner in self._runners:
            runner.stop()

    def tap(self, source: str) -> Tap:
        """The way into the audio of an opened source.

        Raises:
            ConfigError: there is no such source.
        """
        return self._runner(source).tap

    def reset_loudness(self, source: str | None = None, programme: str | None = None) -> None:
        """Start integrated loudness, range and maxima again: of one programme, of one source, or of all.

        Raises:
            ConfigError: there is no such source, or it has no such programme.
        """
        chosen = self._runners if source is None else (self._runner(source),)
        if programme is not None:
            having = [runner for runner in chosen if programme in runner.programmes]
            if not having:
                where = "no source" if source is None else f"source {source!r} does not"
                raise ConfigError(f"{where} measure{'s' if source is None else ''} a programme {programme!r}")
            chosen = tuple(having)
        for runner in chosen:
            runner.reset_loudness(programme)

    def status(self) -> tuple[SourceStatus, ...]:
        """Every source's state and counters, in the order they were given."""
        return tuple(runner.status() for runner in self._runners)

    def _runner(self, source: str) -> SourceRunner:
        for runner in self._runners:
            if runner.name == source:
                return runner
        names = ", ".join(runner.name for runner in self._runners) or "none"
        raise ConfigError(f"there is no source {source!r}", remedy=f"there are: {names}")


class SourceRunner:
    """One source: its capture, its ring, its meters and the thread between them."""

    def __init__(
        self, plan: SourcePlan, capture: Capture, emit: Emit, clock: CaptureClock, insert: InsertPoint
    ) -> None:
        """Open ``capture``; raises what opening raises, with nothing left open."""
        self.name = plan.name
        self._capture = capture
        self._emit = emit
        self._clock = clock
        try:
            opened: StreamFormat = capture.open()
            self._map, self._layout = plan.layout(opened)
            self._pipeline = SourcePipeline(
                plan.name, opened, self._map, self._layout, plan.conditions, insert
            )
            ring = Ring(
                int(LIMITS.audio_ring_seconds * opened.rate),
                opened.channels,
                min_block=LIMITS.audio_ring_min_block_frames,
                dtype=opened.dtype,
            )
        except BaseException:
            capture.stop()
            raise
        self.tap = Tap(opened, self._map, ring)
        self._ring = ring
        self._cursor = ring.open_cursor()
        self._failure = ""
        self._thread: threading.Thread | None = None

    @property
    def programmes(self) -> tuple[str, ...]:
        """The names of its programmes, in the order of its meter frames."""
        return tuple(programme.name for programme in self._layout.programmes)

    def start(self) -> None:
        """Start the meter thread, then the capture."""
        self._thread = threading.Thread(target=self._run, name=f"meters-{self.name}", daemon=True)
        self._thread.start()
        self._capture.start(self._ring)

    def stop(self) -> None:
        """Stop the capture, drain the ring and join the meter thread."""
        self._capture.stop()
        self._ring.close()
        if self._thread is not None:
            self._thread.join(LIMITS.audio_stop_timeout)
            self._thread = None

    def reset_loudness(self, programme: str | None) -> None:
        """Reset one of :attr:`programmes`, or all."""
        self._pipeline.reset_loudness(None if programme is None else self.programmes.index(programme))

    def status(self) -> SourceStatus:
        """The source's state and counters now."""
        made, captured, format_ = self._pipeline.counters, self._capture.counters, self.tap.format
        return SourceStatus(
            source=self.name,
            state=SourceState.ERROR if self._failure else self._capture.state,
            reason=self._failure or self._capture.reason,
            rate=format_.rate,
            channels=len(self._map.channels),
            bits=format_.bits,
            channel_names=self._map.names,
            programmes=self.programmes,
            pairs=self._layout.pairs,
            frames=made.frames,
            overruns=self._cursor.overruns,
            overrun_frames=self._cursor.lost_frames,
            gaps=made.gaps,
            gap_frames=made.gap_frames,
            nonfinite_samples=made.nonfinite_samples,
            meter_frames=made.meter_frames,
            xruns=captured.xruns,
            losses=captured.losses,
            reopens=captured.reopens,
            clock_steps=captured.clock_steps,
        )

    def _run(self) -> None:
        format_ = self.tap.format
        self._say(
            "source_started",
            {
                "rate": format_.rate,
                "channels": len(self._map.channels),
                "bits": format_.bits,
                "channel_names": list(self._map.names),
                "programmes": list(self.programmes),
            },
        )
        try:
            self._process()
        except Exception as error:
            self._failure = error.message if isinstance(error, StageboxError) else repr(error)
            log.exception("source_processing_failed", source=self.name)
            self._capture.stop()
        status = self.status()
        if status.state is SourceState.ERROR:
            log.error("source_error", source=status.source, reason=status.reason)
            self._say("source_error", {"reason": status.reason})
        elif status.state is SourceState.ENDED:
            self._say("source_ended", {"frames": status.frames})

    def _process(self) -> None:
        while True:
            block = self._cursor.read(LIMITS.audio_read_timeout, self._pipeline.frames_due)
            if block is None:
                if self._cursor.at_end:
                    break
                continue
            for item in self._pipeline.accept(block):
                self._emit(item)
        for item in self._pipeline.finish():
            self._emit(item)

    def _say(self, name: str, detail: dict[str, EventValue]) -> None:
        index = self._pipeline.next_index
        self._emit(SourceEvent(self.name, name, index, self._clock.wall(), detail))
