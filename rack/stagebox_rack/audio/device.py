"""The ``device:`` source: a PortAudio stream, watched, and reopened when it dies.

Rules: PortAudio's callback copies and returns, it never waits, logs or raises; a stream that finishes,
turns inactive or stops calling back is lost, is said to be lost, and is reopened by the device's stable identity
with back-off; the first block after that starts at the sample index the clock says, so what was not captured
is a gap and not a seam.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stagebox.errors import CaptureError, StageboxError
from stagebox_rack.audio.capture import (
    NS,
    Capture,
    CaptureClock,
    Notify,
    StreamFormat,
    block_frames,
    frames_to_ns,
    ns_to_frames,
)
from stagebox_rack.audio.measurement import EventValue, SourceState
from stagebox_rack.audio.portaudio import (
    STREAMS,
    InputDevice,
    accepted_rates,
    choose_channels,
    choose_rate,
    find_again,
    find_device,
    list_devices,
    load_portaudio,
    sample_format,
    stream_format,
)
from stagebox_rack.audio.ring import PACKED_24, BlockFlag, Ring
from stagebox_rack.audio.source_uri import SETTING, DeviceSource
from stagebox_rack.audio.stream_clock import StreamClock
from stagebox_rack.limits import LIMITS


class StreamTime(Protocol):
    """PortAudio's callback times, in seconds on the stream's clock (names as PortAudio has them)."""

    @property
    def inputBufferAdcTime(self) -> float:  # noqa: N802
        """When the first frame of the block was at the converter."""

    @property
    def currentTime(self) -> float:  # noqa: N802
        """When the callback was called."""


class DeviceCapture(Capture):
    """Captures one device into the ring."""

    def __init__(self, spec: DeviceSource, notify: Notify, clock: CaptureClock) -> None:
        """Make the capture of the device ``spec`` names."""
        super().__init__(spec.name, notify, clock)
        self._spec = spec
        self._stream: Any = None
        self._format: StreamFormat | None = None
        self._ring: Ring | None = None
        self._wake = threading.Event()  # the stream finished, or stop() was called
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._index = 0  # of the next frame
        self._end_ns = 0  # monotonic time of the end of the last block
        self._stream_clock = StreamClock(LIMITS.opus_rate)
        self._last_call_ns = 0
        self._first_block = True
        self._reopened = False
        self._callback_error = ""
        self._identity = ""  # of the device, from the first time it was opened

    def open(self) -> StreamFormat:
        """Find and open the device.

        Raises:
            CaptureError: PortAudio or the device is missing, or the device refuses the format.
            ConfigError: more channels are set than the device has.
        """
        with STREAMS:
            device = find_device(self._spec, list_devices())
            channels = choose_channels(self._spec, device)
            self._format = stream_format(self._spec, choose_rate(self._spec, device, channels), channels)
            self._open_stream(device, self._format)
        self._stream_clock = StreamClock(self._format.rate)
        return self._format

    def start(self, ring: Ring) -> None:
        """Start the stream and the thread ``capture-<name>`` that watches it."""
        if self._format is None:
            raise RuntimeError("start() before open()")
        self._ring = ring
        self._thread = threading.Thread(
            target=self._supervise, args=(ring, self._format), name=f"capture-{self.name}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop the stream and join the watching thread."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(LIMITS.audio_stop_timeout)
            self._thread = None
        else:
            self._close_stream()
        if self.state in (SourceState.RUNNING, SourceState.LOST):
            self._become(SourceState.STOPPED)

    def on_block(
        self, samples: npt.NDArray[np.generic], frames: int, times: StreamTime, overflowed: bool
    ) -> None:
        """Take one block from PortAudio: date it, place it in the sample index, copy it."""
        ring, format_ = self._ring, self._format
        if ring is None or format_ is None:
            return
        now = self._clock.monotonic()
        lasts = frames_to_ns(frames, format_.rate)
        seen_ns = now - max(0, self._age_ns(times) - lasts)
        flags = BlockFlag.NONE
        if overflowed:
            self.counters.xruns += 1
        if self._first_block:
            self._first_block = False
        elif overflowed or self._reopened:
            flags = BlockFlag.REOPENED if self._reopened else BlockFlag.OVERFLOW
            self._index += max(0, ns_to_frames(seen_ns - lasts - self._end_ns, format_.rate))
        self._reopened = False
        self._end_ns = self._stream_clock.observe(self._index + frames, seen_ns)
        time_ns, stepped = self._date(self._end_ns - lasts, self._index)
        ring.write(samples, self._index, time_ns, flags | stepped)
        self._index += frames
        self._last_call_ns = now

    @staticmethod
    def _age_ns(times: StreamTime) -> int:
        """How long ago the first frame was converted; 0 when the stream's times say nothing credible."""
        if times.inputBufferAdcTime <= 0:
            return 0
        age = times.currentTime - times.inputBufferAdcTime
        return int(age * NS) if 0 <= age <= LIMITS.audio_device_time_max_age else 0

    def _callback(self, samples: Any, frames: int, times: Any, status: Any) -> None:
        try:
            if self._spec.format == "s24":
                packed = np.frombuffer(samples, dtype=PACKED_24)
                samples = packed.reshape(frames, -1, 3)
            self.on_block(samples, frames, times, bool(status.input_overflow))
        except Exception as error:
            # PortAudio's thread would only print it; the watching thread reports it as the reason of the loss.
            self._callback_error = f"{type(error).__name__}: {error}"
            raise load_portaudio().CallbackAbort from error

    def _open_stream(self, device: InputDevice, format_: StreamFormat) -> None:
        sounddevice = load_portaudio()
        # numpy has no 24-bit type: packed samples come as bytes.
        kind = sounddevice.RawInputStream if self._spec.format == "s24" else sounddevice.InputStream
        try:
            self._stream = kind(
                device=device.index,
                channels=format_.channels,
                samplerate=format_.rate,
                dtype=sample_format(self._spec),
                blocksize=block_frames(format_.rate),
                latency=self._spec.latency_ms / 1000.0,
                callback=self._callback,
                finished_callback=self._wake.set,
            )
        except sounddevice.PortAudioError as error:
            raise self._refused(device, format_, error) from error
        self._identity = device.identity
        STREAMS.opened(self.name, self._identity)

    def _refused(self, device: InputDevice, format_: StreamFormat, error: Exception) -> CaptureError:
        other = STREAMS.holder(device.identity, self.name)
        if other is not None:
            return CaptureError(
                f"{SETTING} {self.name}: {device.name!r} is in use by the source {other!r} and does not open twice",
                remedy=f"capture it once, as {other!r} with ?channels=, and name its channels in rack.channels.{other}",
            )
        rates = accepted_rates(self._spec, device, format_.channels)
        takes = f"it takes {', '.join(map(str, rates))} Hz; " if rates and format_.rate not in rates else ""
        return CaptureError(
            f"{SETTING} {self.name}: {device.name!r} does not open with {format_.channels} channels at"
            f" {format_.rate} Hz as {self._spec.format}: {error}",
            remedy=f"{takes}set ?channels=, &rate= or &format= to what the device supports, or free the device",
        )

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            stream.close(ignore_errors=True)
        finally:
            STREAMS.closed(self.name, self._identity)

    def _supervise(self, ring: Ring, format_: StreamFormat) -> None:
        try:
            try:
                self._begin()
            except CaptureError as error:
                self._recover(format_, error.message)
            while not self._stopping.is_set():
                reason = self._watch()
                if reason:
                    self._recover(format_, reason)
        except Exception as error:
            # A thread's death is silent: whatever it died of becomes the source's state and an event.
            message = (
                error.message if isinstance(error, StageboxError) else f"{type(error).__name__}: {error}"
            )
            self._become(SourceState.ERROR, message)
        finally:
            self._close_stream()
            ring.close()

    def _begin(self) -> None:
        self._wake.clear()
        if self._stopping.is_set():
            return
        self._last_call_ns = self._clock.monotonic()
        try:
            self._stream.start()
        except load_portaudio().PortAudioError as error:
            raise CaptureError(f"the stream does not start: {error}") from error
        self._become(SourceState.RUNNING)

    def _watch(self) -> str:
        """Wait until the stream is lost and return why, or "" when it is to stop."""
        silence = int(LIMITS.audio_device_silence * NS)
        while True:
            self._wake.wait(LIMITS.audio_device_poll)
            self._say_steps()
            if self._stopping.is_set():
                return ""
            if self._callback_error:
                raise CaptureError(f"the capture callback failed: {self._callback_error}")
            if self._wake.is_set() or not self._stream.active:
                return "the stream ended"
            if self._clock.monotonic() - self._last_call_ns > silence:
                return f"no audio for {LIMITS.audio_device_silence:g} s"

    def _recover(self, format_: StreamFormat, reason: str) -> None:
        self.counters.losses += 1
        self._become(SourceState.LOST, reason)
        self._say("source_lost", self._index, {"device": self._spec.device, "reason": reason})
        self._close_stream()
        self._reopened = True
        delay = LIMITS.audio_reopen_first
        attempts = 0
        while not self._stopping.is_set():
            self._wake.clear()
            if self._stopping.is_set() or (self._wake.wait(delay) and self._stopping.is_set()):
                return
            attempts += 1
            try:
                with STREAMS:
                    STREAMS.rescan_if_idle()
                    self._open_stream(find_again(self._identity, self._spec, list_devices()), format_)
                self._begin()
            except StageboxError as error:
                self._close_stream()
                self._become(SourceState.LOST, error.message)
                delay = min(delay * LIMITS.audio_reopen_factor, LIMITS.audio_reopen_max)
            else:
                self.counters.reopens += 1
                detail: dict[str, EventValue] = {"device": self._spec.device, "attempts": attempts}
                self._say("source_reopened", self._index, detail)
                return
