"""The audio engine: every source captured, measured and encoded, each in threads of its own.

For each source there is a capture thread that only copies into the ring, and one thread ``dsp-<name>``
that reads it. Rules: `emit` is called from those threads and must not block (the caller hands over
through something bounded and counts its own drops); one source's failure is an event and never another
source's; `start` either starts every source or leaves nothing running.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog

from stagebox.errors import StageboxError
from stagebox_rack.audio.capture import Capture, CaptureClock, StreamFormat
from stagebox_rack.audio.measurement import AudioItem, SourceEvent, SourceState, SourceStatus
from stagebox_rack.audio.pipeline import SourcePipeline
from stagebox_rack.audio.ring import Ring
from stagebox_rack.audio.source_uri import SourceSpec
from stagebox_rack.audio.sources import make_capture
from stagebox_rack.limits import LIMITS

Emit = Callable[[AudioItem], None]
Capturer = Callable[[SourceSpec, Emit, CaptureClock], Capture]

log = structlog.get_logger()


class AudioEngine:
    """Runs ``specs``; everything they give goes to ``emit``."""

    def __init__(
        self,
        specs: Sequence[SourceSpec],
        emit: Emit,
        *,
        monitor_bit_rate: int | None = LIMITS.opus_bit_rate,
        clock: CaptureClock | None = None,
        capturer: Capturer = make_capture,
    ) -> None:
        """Make the engine, idle. ``monitor_bit_rate`` None means meters only; ``capturer`` is for tests."""
        self._specs = tuple(specs)
        self._emit = emit
        self._monitor_bit_rate = monitor_bit_rate
        self._clock = clock or CaptureClock()
        self._capturer = capturer
        self._runners: tuple[SourceRunner, ...] = ()
        self._started = False

    def open(self) -> None:
        """Open every source; nothing is captured yet.

        Raises:
            CaptureError: a device is missing or refuses the format, or PortAudio is missing.
            InputError: a file cannot be used.
            ConfigError: a setting does not fit the device.
        """
        if self._runners:
            raise RuntimeError("the engine was opened before")
        runners: list[SourceRunner] = []
        try:
            for spec in self._specs:
                capture = self._capturer(spec, self._emit, self._clock)
                runners.append(SourceRunner(capture, self._emit, self._clock, self._monitor_bit_rate))
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

    def status(self) -> tuple[SourceStatus, ...]:
        """Every source's state and counters, in the order they were given."""
        return tuple(runner.status() for runner in self._runners)


class SourceRunner:
    """One source: its capture, its ring, its pipeline and the thread between them."""

    def __init__(
        self, capture: Capture, emit: Emit, clock: CaptureClock, monitor_bit_rate: int | None
    ) -> None:
        """Open ``capture``; raises what opening raises, with nothing left open."""
        self._capture = capture
        self._emit = emit
        self._clock = clock
        try:
            self.format: StreamFormat = capture.open()
            self._pipeline = SourcePipeline(
                capture.name, self.format.rate, self.format.channels, monitor_bit_rate=monitor_bit_rate
            )
            self._ring = Ring(
                int(LIMITS.audio_ring_seconds * self.format.rate),
                self.format.channels,
                min_block=LIMITS.audio_ring_min_block_frames,
            )
        except BaseException:
            capture.stop()
            raise
        self._cursor = self._ring.open_cursor()
        self._failure = ""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the DSP thread, then the capture."""
        self._thread = threading.Thread(target=self._run, name=f"dsp-{self._capture.name}", daemon=True)
        self._thread.start()
        self._capture.start(self._ring)

    def stop(self) -> None:
        """Stop the capture, drain the ring and join the DSP thread."""
        self._capture.stop()
        self._ring.close()
        if self._thread is not None:
            self._thread.join(LIMITS.audio_stop_timeout)
            self._thread = None

    def status(self) -> SourceStatus:
        """The source's state and counters now."""
        counters = self._pipeline.counters
        return SourceStatus(
            source=self._capture.name,
            state=SourceState.ERROR if self._failure else self._capture.state,
            reason=self._failure or self._capture.reason,
            rate=self.format.rate,
            channels=self.format.channels,
            frames=counters.frames,
            overruns=self._cursor.overruns,
            overrun_frames=self._cursor.lost_frames,
            gaps=counters.gaps,
            gap_frames=counters.gap_frames,
            nonfinite_samples=counters.nonfinite_samples,
            meter_frames=counters.meter_frames,
            opus_packets=counters.opus_packets,
        )

    def _run(self) -> None:
        self._say("source_started", {"rate": self.format.rate, "channels": self.format.channels})
        try:
            self._process()
        except Exception as error:
            self._failure = error.message if isinstance(error, StageboxError) else repr(error)
            log.exception("source_processing_failed", source=self._capture.name)
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

    def _say(self, name: str, detail: dict[str, str | int]) -> None:
        index = self._pipeline.next_index
        self._emit(SourceEvent(self._capture.name, name, index, self._clock.wall(), detail))
