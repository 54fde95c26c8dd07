"""Device capture against a PortAudio whose faults are injected: loss, silence, overflow, refusal."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stagebox.errors import CaptureError, ConfigError
from stagebox_rack.audio import device as device_module
from stagebox_rack.audio import portaudio as portaudio_module
from stagebox_rack.audio.capture import CaptureClock, StreamFormat
from stagebox_rack.audio.device import DeviceCapture
from stagebox_rack.audio.measurement import SourceEvent, SourceState
from stagebox_rack.audio.portaudio import STREAMS, InputDevice, choose_channels, find_device
from stagebox_rack.audio.ring import Block, BlockFlag, Ring
from stagebox_rack.audio.source_uri import DeviceSource
from stagebox_rack.limits import LIMITS

MS = 1_000_000


class FakePortAudio:
    """A PortAudio with one device; the test plays the driver."""

    class PortAudioError(Exception):
        pass

    class CallbackAbort(Exception):
        pass

    def __init__(self) -> None:
        self.devices = [
            {"name": "Interface", "hostapi": 0, "max_input_channels": 4, "default_samplerate": 44100.0}
        ]
        self.refuses = ""
        self.takes: tuple[int, ...] = ()
        self.exclusive = False
        self.rescans = 0
        self.streams: list[FakeStream] = []
        self.opened = threading.Semaphore(0)

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "ALSA", "default_input_device": 0 if self.devices else -1}]

    def query_devices(self) -> list[dict[str, Any]]:
        return self.devices

    def check_input_settings(self, device: int, channels: int, dtype: str, samplerate: int) -> None:
        if self.refuses and samplerate not in self.takes:
            raise self.PortAudioError(self.refuses)

    def InputStream(self, **settings: Any) -> FakeStream:
        if self.refuses:
            raise self.PortAudioError(self.refuses)
        if self.exclusive and any(not stream.closed for stream in self.streams):
            raise self.PortAudioError("Device unavailable")
        stream = FakeStream(settings)
        self.streams.append(stream)
        return stream

    def RawInputStream(self, **settings: Any) -> FakeStream:
        return self.InputStream(**settings)

    def wait_started(self, count: int) -> FakeStream:
        deadline = time.monotonic() + 10
        while len(self.streams) < count or not self.streams[count - 1].active:
            assert time.monotonic() < deadline, "no stream was started"
            time.sleep(0.002)
        return self.streams[count - 1]

    def _terminate(self) -> None:
        self.rescans += 1

    def _initialize(self) -> None:
        pass


class FakeStream:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.active = False
        self.closed = False

    def start(self) -> None:
        self.active = True

    def close(self, ignore_errors: bool = True) -> None:
        self.active = False
        self.closed = True

    def feed(
        self, value: int, frames: int = 480, *, overflow: bool = False, adc_age: float | None = None
    ) -> None:
        samples: Any
        if self.settings["dtype"] == "int24":
            packed = value.to_bytes(3, "little", signed=True) * frames * self.settings["channels"]
            samples = memoryview(packed)
        else:
            samples = np.full((frames, self.settings["channels"]), value, dtype=self.settings["dtype"])
        times = SimpleNamespace(inputBufferAdcTime=0.0, currentTime=100.0)
        if adc_age is not None:
            times.inputBufferAdcTime = 100.0 - adc_age
        self.settings["callback"](samples, frames, times, SimpleNamespace(input_overflow=overflow))

    def die(self) -> None:
        self.active = False
        self.settings["finished_callback"]()


class SteppedClock:
    """Both clocks, moved only by the test."""

    def __init__(self) -> None:
        self.now = 1_000_000_000
        self.offset = 7_000_000_000

    def clock(self) -> CaptureClock:
        return CaptureClock(monotonic=lambda: self.now, wall=lambda: self.now + self.offset)


class Rig:
    def __init__(self, fake: FakePortAudio, spec: DeviceSource) -> None:
        self.fake = fake
        self.time = SteppedClock()
        self.events: list[SourceEvent] = []
        self.said = threading.Semaphore(0)
        self.capture = DeviceCapture(spec, self._notify, self.time.clock())
        self.format = self.capture.open()
        self.ring = Ring(48_000, self.format.channels, min_block=64, dtype=self.format.dtype)
        self.cursor = self.ring.open_cursor()

    def _notify(self, event: SourceEvent) -> None:
        self.events.append(event)
        self.said.release()

    def start(self) -> FakeStream:
        self.capture.start(self.ring)
        return self.fake.wait_started(1)

    def state(self) -> SourceState:
        return self.capture.state

    def read(self) -> Block:
        block = self.cursor.read(5)
        assert block is not None
        return block

    def heard(self, name: str) -> SourceEvent:
        assert self.said.acquire(timeout=10)
        assert self.events[-1].name == name
        return self.events[-1]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePortAudio:
    fake = FakePortAudio()
    quick = dataclasses.replace(
        LIMITS, audio_reopen_first=0.01, audio_reopen_max=0.02, audio_device_poll=0.01
    )
    monkeypatch.setattr(device_module, "LIMITS", quick)
    monkeypatch.setattr(device_module, "load_portaudio", lambda: fake)
    monkeypatch.setattr(portaudio_module, "load_portaudio", lambda: fake)
    return fake


@pytest.fixture
def make_rig(fake: FakePortAudio) -> Any:
    rigs: list[Rig] = []

    def make(**settings: Any) -> Rig:
        rigs.append(Rig(fake, DeviceSource("main", "default", **settings)))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.capture.stop()
        rig.capture.stop()
    assert STREAMS.count == 0
    assert all(stream.closed for stream in fake.streams)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("capture-")]


def test_the_device_opens_at_48_khz_if_it_can_and_at_its_own_rate_if_not(
    fake: FakePortAudio, make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_rig().format == StreamFormat(48_000, 2)

    def refuse(*args: object, **settings: object) -> None:
        raise fake.PortAudioError("Invalid sample rate")

    monkeypatch.setattr(fake, "check_input_settings", refuse)
    assert make_rig(channels=4).format == StreamFormat(44_100, 4)


@pytest.mark.parametrize(
    ("format_", "dtype", "kept", "bits"),
    [
        ("f32", "float32", np.float32, 32),
        ("s16", "int16", np.int16, 16),
        ("s24", "int24", np.int32, 24),
        ("s32", "int32", np.int32, 32),
    ],
)
def test_the_stream_has_the_format_that_was_set_and_the_ring_keeps_it(
    fake: FakePortAudio, make_rig: Callable[..., Rig], format_: str, dtype: str, kept: type, bits: int
) -> None:
    rig = make_rig(format=format_)
    assert fake.streams[0].settings["dtype"] == dtype
    assert fake.streams[0].settings["blocksize"] == 480
    assert (rig.format.dtype, rig.format.bits) == (np.dtype(kept), bits)
    rig.start().feed(-3)
    scale = 256 if format_ == "s24" else 1
    np.testing.assert_array_equal(rig.read().samples, np.full((480, 2), -3 * scale, dtype=kept))


def test_blocks_are_indexed_and_dated(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    stream = rig.start()
    for n in range(3):
        rig.time.now += 10 * MS
        stream.feed(n)
        block = rig.read()
        assert block.index == n * 480
        assert block.flags == BlockFlag.NONE
        assert abs(block.time_ns - (8_000_000_000 + n * 10 * MS)) < 20_000
    assert rig.state() is SourceState.RUNNING


def test_a_converter_time_in_the_past_dates_the_block_and_one_in_the_future_does_not(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()
    stream = rig.start()
    rig.time.now += 10 * MS
    stream.feed(0, adc_age=-0.02)
    assert rig.read().time_ns == 8_000_000_000
    rig.time.now += 10 * MS
    stream.feed(0, adc_age=0.025)  # began 25 ms ago, so ended 15 ms ago: the callback is 15 ms late
    assert rig.read().time_ns == 8_000_000_000 - 5 * MS


def test_an_overflow_moves_the_index_by_what_the_clock_says_was_lost(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    stream = rig.start()
    rig.time.now += 10 * MS
    stream.feed(0)
    rig.read()
    rig.time.now += 40 * MS
    stream.feed(0, overflow=True)
    block = rig.read()
    assert block.flags == BlockFlag.OVERFLOW
    assert block.index == 480 + 30 * 48


def test_a_dead_stream_is_said_to_be_lost_and_reopened_with_the_gap_in_the_index(
    fake: FakePortAudio, make_rig: Callable[..., Rig]
) -> None:
    rig = make_rig()
    stream = rig.start()
    rig.time.now += 10 * MS
    stream.feed(0)
    rig.read()
    stream.die()
    lost = rig.heard("source_lost")
    assert (lost.start, lost.detail["reason"]) == (480, "the stream ended")
    assert rig.heard("source_reopened").detail["device"] == "default"
    second = fake.wait_started(2)
    rig.time.now += 1000 * MS
    second.feed(1)
    block = rig.read()
    assert block.flags == BlockFlag.REOPENED
    assert block.index == 480 + 990 * 48
    assert rig.state() is SourceState.RUNNING
    rig.time.now += 10 * MS
    second.feed(1)
    assert (rig.read().index, stream.closed) == (block.index + 480, True)


def test_a_stream_that_stops_calling_back_is_lost(fake: FakePortAudio, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.start()
    rig.time.now += int(2.1 * 1000) * MS
    assert "no audio for" in str(rig.heard("source_lost").detail["reason"])
    rig.heard("source_reopened")
    fake.wait_started(2)


def test_an_unplugged_device_is_tried_until_it_is_back(
    fake: FakePortAudio, make_rig: Callable[..., Rig]
) -> None:
    rig = make_rig()
    stream = rig.start()
    devices, fake.devices = fake.devices, []
    stream.die()
    rig.heard("source_lost")
    deadline = time.monotonic() + 10
    while fake.rescans < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert rig.state() is SourceState.LOST
    assert "no such capture device" in rig.capture.reason
    fake.devices = devices
    attempts = rig.heard("source_reopened").detail["attempts"]
    assert isinstance(attempts, int)
    assert attempts >= 3
    assert rig.state() is SourceState.RUNNING


def test_devices_are_not_rescanned_while_another_source_captures(
    fake: FakePortAudio, make_rig: Callable[..., Rig]
) -> None:
    dying, living = make_rig(), make_rig()
    dying.start().die()
    dying.heard("source_lost")
    dying.heard("source_reopened")
    assert fake.rescans == 0
    assert STREAMS.count == 2
    living.capture.stop()
    assert STREAMS.count == 1


def test_a_fault_in_the_callback_ends_the_source_with_its_reason(
    fake: FakePortAudio, make_rig: Callable[..., Rig]
) -> None:
    rig = make_rig()
    stream = rig.start()
    with pytest.raises(fake.CallbackAbort):
        stream.feed(0, frames=60_000)  # more than the ring holds
    deadline = time.monotonic() + 10
    while not rig.cursor.at_end:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert rig.state() is SourceState.ERROR
    assert "does not fit a ring" in rig.capture.reason


def test_a_refused_format_names_the_device_and_what_was_asked(
    fake: FakePortAudio, make_rig: Callable[..., Rig]
) -> None:
    fake.refuses = "Invalid sample rate"
    with pytest.raises(CaptureError, match=r"'Interface' does not open with 2 channels at 96000 Hz"):
        make_rig(rate=96_000)


def test_a_refused_rate_says_which_ones_the_device_takes(
    fake: FakePortAudio, make_rig: Callable[..., Rig]
) -> None:
    fake.refuses, fake.takes = "Invalid sample rate", (44_100, 48_000)
    with pytest.raises(CaptureError) as refused:
        make_rig(rate=96_000)
    assert (refused.value.remedy or "").startswith("it takes 44100, 48000 Hz;")


def test_two_sources_on_an_exclusive_device_are_refused_naming_both(fake: FakePortAudio) -> None:
    fake.exclusive = True
    clock = SteppedClock().clock()
    first = DeviceCapture(DeviceSource("drums", "Interface"), lambda event: None, clock)
    second = DeviceCapture(DeviceSource("vox", "Interface"), lambda event: None, clock)
    first.open()
    with pytest.raises(CaptureError, match=r"vox: 'Interface' is in use by the source 'drums'") as refused:
        second.open()
    assert "rack.channels.drums" in (refused.value.remedy or "")
    first.stop()
    second.open()
    second.stop()


def test_a_replugged_device_is_found_by_its_identity_and_another_in_its_place_is_not_taken(
    fake: FakePortAudio, make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    serials = {"USB Audio (hw:1,0)": "usb:1235:8211:AAA/0"}
    monkeypatch.setattr(
        portaudio_module, "device_identity", lambda name, api: serials.get(name, f"{api}:{name}")
    )

    def plugged(name: str) -> list[dict[str, Any]]:
        return [{"name": name, "hostapi": 0, "max_input_channels": 4, "default_samplerate": 48_000.0}]

    fake.devices = plugged("USB Audio (hw:1,0)")
    rig = make_rig()
    stream = rig.start()
    serials["USB Audio (hw:1,0)"] = "usb:1235:8211:BBB/0"  # another interface of the same make took its index
    stream.die()
    rig.heard("source_lost")
    deadline = time.monotonic() + 10
    while "usb:1235:8211:AAA/0" not in rig.capture.reason:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert len(fake.streams) == 1
    serials["USB Audio (hw:3,0)"] = "usb:1235:8211:AAA/0"
    fake.devices = plugged("USB Audio (hw:3,0)")
    rig.heard("source_reopened")
    assert (rig.capture.counters.losses, rig.capture.counters.reopens) == (1, 1)


def test_a_step_of_the_wall_clock_is_flagged_said_and_breaks_nothing(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    stream = rig.start()
    times = []
    for n in range(4):
        rig.time.now += 10 * MS
        if n == 2:
            rig.time.offset += 3600_000 * MS
        stream.feed(n)
        block = rig.read()
        times.append(block.time_ns)
        assert block.index == n * 480
        assert block.flags == (BlockFlag.CLOCK_STEP if n == 2 else BlockFlag.NONE)
    assert times[2] - times[1] == pytest.approx(3600_010 * MS, abs=MS)
    event = rig.heard("clock_stepped")
    assert (event.start, event.detail["step_ms"]) == (960, 3_600_000)
    assert rig.capture.counters.clock_steps == 1
    assert rig.state() is SourceState.RUNNING


@pytest.mark.parametrize("channels", [2, 16, 64])
def test_across_a_reopen_a_64_bit_counter_has_its_gap_exactly_where_and_as_long_as_it_was(
    fake: FakePortAudio, make_rig: Callable[..., Rig], channels: int
) -> None:
    """The counter is the number of the sample since the start, by the converter's clock, in two 32-bit halves."""
    fake.devices[0]["max_input_channels"] = channels
    rig = make_rig(format="s32", channels=channels)
    start = (1 << 62) + 12_345

    def block(first: int) -> Any:
        numbers = np.arange(first, first + 480, dtype=np.uint64)[:, np.newaxis] + np.uint64(start)
        halves = np.concatenate((numbers >> np.uint64(32), numbers & np.uint64(0xFFFFFFFF)), axis=1)
        return np.tile(halves.astype(np.uint32).view(np.int32), (1, channels // 2))

    def feed(stream: FakeStream, number: int) -> None:
        rig.time.now = 1_000_000_000 + (number + 1) * 10 * MS
        times = SimpleNamespace(inputBufferAdcTime=0.0, currentTime=100.0)
        stream.settings["callback"](block(number * 480), 480, times, SimpleNamespace(input_overflow=False))

    first = rig.start()
    for number in range(50):
        feed(first, number)
    first.die()
    lost = rig.heard("source_lost")
    rig.heard("source_reopened")
    second = fake.wait_started(2)
    for number in range(173, 223):
        feed(second, number)
    got = [rig.read() for _ in range(100)]
    for read in got:
        np.testing.assert_array_equal(read.samples, block(read.index))
    assert lost.start == got[49].index + 480 == 50 * 480
    assert got[50].index == 173 * 480
    assert [index for index, read in enumerate(got) if read.flags] == [50]


def devices(*names: str, default: int = -1) -> tuple[InputDevice, ...]:
    return tuple(
        InputDevice(n, name, "ALSA", 2, 48_000, n == default, f"ALSA:{name}") for n, name in enumerate(names)
    )


def test_a_device_is_found_by_whole_name_then_by_an_unambiguous_part() -> None:
    there = devices("USB Mic", "USB Mic 2", "Line", default=2)
    assert find_device(DeviceSource("main", "USB Mic"), there).index == 0
    assert find_device(DeviceSource("main", "mic 2"), there).index == 1
    assert find_device(DeviceSource("main", "default"), there).index == 2
    with pytest.raises(CaptureError, match="more than one device: 'USB Mic', 'USB Mic 2'"):
        find_device(DeviceSource("main", "usb"), there)


@pytest.mark.parametrize(("there", "says"), [(devices("A", "B"), "'A', 'B'"), ((), "none at all")])
def test_a_missing_device_is_refused_with_a_list_of_what_there_is(
    there: tuple[InputDevice, ...], says: str
) -> None:
    with pytest.raises(CaptureError, match="no such capture device") as caught:
        find_device(DeviceSource("main", "Nope"), there)
    assert says in caught.value.message


def test_more_channels_than_the_device_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels=8"):
        choose_channels(DeviceSource("main", "A", channels=8), devices("A")[0])


def test_missing_portaudio_is_one_line_with_the_package_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(CaptureError) as caught:
        portaudio_module.load_portaudio.__wrapped__()
    assert "libportaudio2" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.remedy == "apt-get install libportaudio2"
