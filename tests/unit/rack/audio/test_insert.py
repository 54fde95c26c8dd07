"""What sits on the way of audio: it changes what is measured and heard, never what was captured."""

from __future__ import annotations

import threading

import numpy as np

from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio.channel_map import ChannelMap
from stagebox_rack.audio.engine import Tap
from stagebox_rack.audio.insert import InsertPoint, InsertPoints
from stagebox_rack.audio.measurement import MeterMeasurement, OpusPacket
from stagebox_rack.audio.pipeline import SourcePipeline
from stagebox_rack.audio.ring import Block, BlockFlag, Ring
from stagebox_rack.metering.conditions import ConditionSettings
from stagebox_rack.metering.layout import MeterLayout, Programme
from stagebox_rack.metering.levels import Float32
from stagebox_rack.modules.tap import TapRunner
from stagebox_rack.monitor.bus import BusPlan
from stagebox_rack.monitor.encoding import BusEncoding, EncodingCounters

RATE = 48_000
NS = 1_000_000_000


class Gain:
    """Multiplies, and keeps what it was given."""

    def __init__(self, gain: float) -> None:
        self.gain = np.float32(gain)
        self.pieces: list[tuple[int, int, int]] = []
        self.highest = 0.0
        self._came = threading.Condition()

    def process(self, samples: Float32, *, start: int, time_ns: int) -> Float32:
        with self._came:
            self.pieces.append((start, len(samples), time_ns))
            self.highest = max(self.highest, float(samples.max()))
            self._came.notify_all()
        return samples * self.gain

    def wait_for_frames(self, frames: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: sum(n for _, n, _ in self.pieces) >= frames, 10)


def block(index: int, frames: int = 480, level: float = 0.1) -> Block:
    samples = np.full((frames, 2), level, dtype=np.float32)
    return Block(samples, index, index * NS // RATE, BlockFlag.NONE, 0)


def metered(point: InsertPoint, blocks: list[Block]) -> list[MeterMeasurement]:
    layout = MeterLayout(RATE, 2, (Programme("all", (0, 1), (1.0, 1.0)),), ((0, 1),), 20)
    pipeline = SourcePipeline(
        "main", StreamFormat(RATE, 2), ChannelMap.identity(2), layout, ConditionSettings.none(), point
    )
    return [i for each in blocks for i in pipeline.accept(each) if isinstance(i, MeterMeasurement)]


def test_what_sits_before_the_meters_is_measured() -> None:
    point, gain = InsertPoint(), Gain(0.5)
    point.use(gain)
    dry = metered(InsertPoint(), [block(n * 480) for n in range(10)])
    wet = metered(point, [block(n * 480) for n in range(10)])
    np.testing.assert_allclose(wet[0].peak, dry[0].peak - 6.0206, atol=1e-3)
    assert gain.pieces == [(0, 2400, 0), (2400, 2400, 50_000_000)]


def test_a_block_that_was_captured_is_not_changed() -> None:
    point = InsertPoint()
    point.use(Gain(0.0))
    captured = block(0, 2400)
    metered(point, [captured])
    assert float(captured.samples.min()) == np.float32(0.1)


def test_a_module_is_never_given_what_is_no_sample() -> None:
    point, gain = InsertPoint(), Gain(1.0)
    point.use(gain)
    bad = block(0, 2400)
    bad.samples[7] = np.inf
    metered(point, [bad])
    assert gain.highest == np.float32(0.1)


def test_a_point_hands_on_what_it_got_when_nothing_sits_there() -> None:
    point = InsertPoints().at("main")
    samples = np.zeros((4, 2), dtype=np.float32)
    assert point.process(samples, start=0, time_ns=0) is samples


def test_a_name_always_gives_the_same_point() -> None:
    points = InsertPoints()
    assert points.at("main") is points.at("main")
    assert points.at("main") is not points.at("other")


def test_what_was_taken_away_is_not_called_any_more() -> None:
    """``use`` waits for the piece under way, so the one before may be taken down after it."""
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        def process(self, samples: Float32, *, start: int, time_ns: int) -> Float32:
            entered.set()
            assert leave.wait(10)
            return samples

    point = InsertPoint()
    point.use(Slow())
    samples = np.zeros((4, 2), dtype=np.float32)
    audio = threading.Thread(target=lambda: point.process(samples, start=0, time_ns=0))
    audio.start()
    assert entered.wait(10)
    taken = threading.Event()

    def take() -> None:
        point.use(None)
        taken.set()

    taking = threading.Thread(target=take)
    taking.start()
    assert not taken.is_set()
    leave.set()
    assert taken.wait(10)
    audio.join(10)
    taking.join(10)


def _capture(ring: Ring, first: int, blocks: int, level: float = 0.1) -> None:
    for number in range(first, first + blocks):
        samples = np.full((480, 2), level, dtype=np.float32)
        ring.write(samples, number * 480, number * 10_000_000, BlockFlag.NONE)


def test_what_sits_on_a_monitor_bus_is_heard_and_kept_below_full_scale() -> None:
    ring, point, gain = Ring(RATE, 2, min_block=64), InsertPoint(), Gain(20.0)
    point.use(gain)
    packets: list[OpusPacket] = []
    counters = EncodingCounters()
    tap = Tap(StreamFormat(RATE, 2), ChannelMap.identity(2), ring)
    encoding = BusEncoding(BusPlan("main", "main"), tap, packets.append, counters, point)
    encoding.start()
    _capture(ring, 0, 20)
    gain.wait_for_frames(20 * 480)
    ring.close()
    encoding.stop()
    assert counters.clipped == 20 * 480 * 2
    assert len(packets) == 10


def test_a_module_beside_a_source_hears_every_frame_in_blocks_of_20_ms() -> None:
    ring, gain = Ring(RATE, 2, min_block=64), Gain(0.0)
    tap = Tap(StreamFormat(RATE, 2), ChannelMap.identity(2), ring)
    recorder = ring.open_cursor()
    runner = TapRunner("main", tap, gain)
    _capture(ring, 0, 20)
    gain.wait_for_frames(20 * 480)
    runner.stop()
    assert gain.pieces == [(n * 960, 960, n * 20_000_000) for n in range(10)]
    assert runner.overruns == 0
    recorded = [recorder.read(0.0) for _ in range(20)]
    assert all(one is not None and float(one.samples.min()) == np.float32(0.1) for one in recorded)


def test_a_gap_ends_a_block_of_a_module_beside_a_source() -> None:
    ring, gain = Ring(RATE, 2, min_block=64), Gain(1.0)
    tap = Tap(StreamFormat(RATE, 2), ChannelMap.identity(2), ring)
    runner = TapRunner("main", tap, gain)
    _capture(ring, 0, 3)
    _capture(ring, 10, 2)
    gain.wait_for_frames(5 * 480)
    runner.stop()
    assert [piece[:2] for piece in gain.pieces] == [(0, 960), (960, 480), (4800, 960)]
