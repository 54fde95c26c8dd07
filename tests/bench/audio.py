"""The audio engine: what meters, Opus and a whole rack process cost, and how long listening takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyebur128

import stagebox
from bench.stage import Stage, cpu_seconds, stage
from bench.table import Row
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio.pipeline import SourcePipeline
from stagebox_rack.audio.plan import SourcePlan
from stagebox_rack.audio.ring import Block, BlockFlag
from stagebox_rack.audio.source_uri import parse_source
from stagebox_rack.monitor.opus import OpusEncoder
from support.listening import Heard, analyse, hear, known_signal

RATE = 48_000
BLOCK = RATE // 50  # 20 ms
BLOCK_NS = 20_000_000
CHANNELS = (2, 16, 64)
WARM_UP, BLOCKS = 100, 500
ROUNDS = 3
SETTLE_S, PROCESS_S = 5.0, 15.0
LISTEN_S, LATENCY_MS = 40.0, 60.0
EXPECTED = {2: "≤ 2 % of a core: 400", 16: "", 64: "≤ 15 % of a core: 3000"}

Float32 = npt.NDArray[np.float32]


def _signal(channels: int) -> Float32:
    """Pink-ish noise and a tone in every channel, float32[frames, channels]: nothing takes a short cut for silence."""
    random = np.random.default_rng(4)
    n = np.arange((WARM_UP + BLOCKS) * BLOCK)[:, np.newaxis]
    noise = 0.03 * random.standard_normal((len(n), channels), dtype=np.float32)
    tone = 0.1 * np.sin(2 * np.pi * (200 + 37 * np.arange(channels)) * n / RATE)
    return (noise + tone).astype(np.float32)


def _best(block: Callable[[int], object]) -> float:
    """Microseconds of CPU a block, the best of the rounds: the others had company."""
    best = float("inf")
    for index in range(WARM_UP):
        block(index)
    for round_ in range(ROUNDS):
        begin = WARM_UP + round_ * BLOCKS // ROUNDS
        end = WARM_UP + (round_ + 1) * BLOCKS // ROUNDS
        started = time.process_time_ns()
        for index in range(begin, end):
            block(index)
        best = min(best, (time.process_time_ns() - started) / 1000 / (end - begin))
    return best


def _ours(signal: Float32) -> float:
    """Everything between ring and measurement: channel map, sanity, all meters, all conditions."""
    channels = signal.shape[1]
    opened = StreamFormat(RATE, channels)
    plan = SourcePlan(parse_source(f"tone:997@-20?channels={channels}"))
    mapped, layout = plan.layout(opened)
    pipeline = SourcePipeline("bench", opened, mapped, layout, plan.conditions)

    def block(index: int) -> object:
        at = index * BLOCK
        return list(
            pipeline.accept(Block(signal[at : at + BLOCK], at, (index + 1) * BLOCK_NS, BlockFlag.NONE, 0))
        )

    return _best(block)


def _ebur128(signal: Float32) -> float:
    """pyebur128 with the loudness and true peak a rack shows, read at 20 Hz; no PPM, VU, correlation or conditions."""
    channels = signal.shape[1]
    wanted = pyebur128.MeasurementMode
    state = pyebur128.R128State(
        channels,
        RATE,
        wanted.MODE_M | wanted.MODE_S | wanted.MODE_I | wanted.MODE_LRA | wanted.MODE_TRUE_PEAK,
    )

    def block(index: int) -> object:
        at = index * BLOCK
        state.add_frames(np.ascontiguousarray(signal[at : at + BLOCK]).ravel(), BLOCK)
        if index % 5 < 2:
            return (
                pyebur128.get_loudness_momentary(state),
                pyebur128.get_loudness_shortterm(state),
                pyebur128.get_loudness_global(state),
                pyebur128.get_loudness_range(state),
                [pyebur128.get_previous_true_peak(state, channel) for channel in range(channels)],
            )
        return None

    return _best(block)


def _peaks(signal: Float32) -> float:
    """The least that could be called a meter: each channel's highest sample."""
    return _best(lambda index: np.abs(signal[index * BLOCK : (index + 1) * BLOCK]).max(axis=0))


def _opus(signal: Float32, bit_rate: int) -> float:
    encoder = OpusEncoder(RATE, signal.shape[1], bit_rate)
    return _best(
        lambda index: list(
            encoder.push(signal[index * BLOCK : (index + 1) * BLOCK], index * BLOCK, (index + 1) * BLOCK_NS)
        )
    )


def _computing(say: Callable[[str], None]) -> list[Row]:
    rows = []
    for channels in CHANNELS:
        say(f"audio: {channels} channels beside pyebur128 and a numpy peak meter")
        signal = _signal(channels)
        ours, oracle, peaks = _ours(signal), _ebur128(signal), _peaks(signal)
        name = f"{channels} channels, all meters and conditions"
        rows += [
            Row("audio", name, "µs of CPU a 20 ms block", ours, peaks, "numpy: abs().max(axis=0)", EXPECTED[channels]),
            Row("audio", name, "the same", ours, oracle, "pyebur128: M, S, I, LRA, true peak only"),
            Row("audio", name, "× real time", 20_000 / ours, 20_000 / oracle, "pyebur128"),
        ]  # fmt: skip
    say("audio: Opus")
    stereo = _signal(2)
    for channels, rate in ((1, 64_000), (2, 128_000), (2, 256_000)):
        cost = _opus(np.ascontiguousarray(stereo[:, :channels]), rate)
        name = f"Opus, {'mono' if channels == 1 else 'stereo'} at {rate // 1000} kbit/s"
        rows.append(Row("audio", name, "µs of CPU a 20 ms packet", cost))
    return rows


async def _process(place: Stage, channels: int) -> float:
    """A whole rack process with a tone of so many channels, nobody listening, % of a core."""
    name = f"bench{channels}"
    await place.cluster.start_rack(name, f"tone:997@-23?channels={channels}")
    await place.identity(name)
    await asyncio.sleep(SETTLE_S)
    pid = place.cluster.rack_pid(name)
    before, started = cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(PROCESS_S)
    share = 100 * (cpu_seconds(pid) - before) / (time.perf_counter() - started)
    await place.cluster.stop_racks()
    return share


async def _heard(place: Stage) -> tuple[Heard, dict[str, object]]:
    directory = place.cluster.state_dir("listened").parent
    signal = known_signal(directory / "known.wav")
    await place.cluster.start_rack("listened", f"file:{directory}/known.wav?loop=1")
    await place.identity("listened")
    bus = stagebox.connect(place.mixer.snake, place.cluster.viewer, mixer=place.mixer.api)
    async with bus:
        heard = await hear(bus, "listened", LISTEN_S, latency_ms=LATENCY_MS)
    await place.cluster.stop_racks()
    return heard, analyse(heard, signal, LATENCY_MS)


async def run(say: Callable[[str], None]) -> list[Row]:
    """Measure one after the other in the same run."""
    rows = await asyncio.to_thread(_computing, say)
    async with stage() as place:
        for channels in CHANNELS:
            say(f"audio: a rack with {channels} channels for {PROCESS_S:.0f} s")
            share = await _process(place, channels)
            rows.append(
                Row("audio", f"rack process, {channels} channels, nobody listening", "% of a core", share)
            )
        say(f"audio: listening for {LISTEN_S:.0f} s")
        _, figures = await _heard(place)
    latency, added = figures["click_latency_ms"], figures["added_latency_ms"]
    assert isinstance(latency, dict)
    assert isinstance(added, dict)
    buffered = LATENCY_MS + 20
    for point in ("p50", "p99"):
        rows.append(Row("audio", f"click captured → handed out, {point}", "ms", latency[point], buffered,
                        "jitter buffer and codec frame"))  # fmt: skip
    rows.append(Row("audio", "of it added, p50", "ms", added["p50"], expected="< 10"))
    rows.append(Row("audio", "of it added, p99", "ms", added["p99"]))
    return rows
