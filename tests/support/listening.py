"""A known signal heard through the whole chain, and what became of it: level, noise, the latency of its clicks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from stagebox.bus import BusMessage
from stagebox.listening.listener import AudioBlock, Listener, ListenStats
from stagebox.subscriber import Subscriber

RATE = 48_000
LOOP_S = 4
TONE_HZ = 997.0
TONE_DBFS = -20.0
CLICK = 0.9
# Where in the loop the clicks are, in ms: no two are as far apart as any other two.
CLICKS_MS = (2_100, 2_310, 2_540, 2_830, 3_130, 3_490, 3_870)
CODEC_MS = 20.0

Float32 = npt.NDArray[np.float32]


def known_signal(path: Path) -> Float32:
    """Write the loop, float32[frames, 2]: two seconds of tone (right 6 dB down), then silence with clicks."""
    n = np.arange(LOOP_S * RATE)
    wave = np.where(n < 2 * RATE, 10 ** (TONE_DBFS / 20) * np.sin(2 * np.pi * TONE_HZ * n / RATE), 0.0)
    signal = np.stack((wave, 0.5 * wave), axis=1).astype(np.float32)
    for at in CLICKS_MS:
        signal[at * RATE // 1000 : at * RATE // 1000 + 24] = CLICK
    soundfile.write(path, signal, RATE, subtype="FLOAT")
    return signal


@dataclass
class Heard:
    """Blocks and when each was handed out (wall clock, ns)."""

    blocks: list[AudioBlock] = field(default_factory=list)
    at_ns: list[int] = field(default_factory=list)
    stats: ListenStats | None = None

    def timeline(self) -> tuple[int, Float32, npt.NDArray[np.bool_]]:
        """Index of the first frame, all samples, and which of them were received and not concealed."""
        first = self.blocks[0].start
        last = self.blocks[-1].start + len(self.blocks[-1].samples)
        samples = np.zeros((last - first, self.blocks[0].samples.shape[1]), dtype=np.float32)
        received = np.zeros(last - first, dtype=bool)
        for block in self.blocks:
            at = block.start - first
            samples[at : at + len(block.samples)] = block.samples
            received[at : at + len(block.samples)] = not block.concealed
        return first, samples, received


async def hear(bus: Subscriber, rack: str, seconds: float, *, latency_ms: float = 60.0) -> Heard:
    """Listen for ``seconds``."""
    heard = Heard()
    async with bus.listen(rack, latency_ms=latency_ms) as listener:
        heard.stats = listener.stats
        async for block in listener:
            heard.blocks.append(block)
            heard.at_ns.append(time.time_ns())
            if enough(listener, seconds):
                break
    return heard


def enough(listener: Listener, seconds: float) -> bool:
    """Whether so much was heard."""
    return listener.stats.frames >= seconds * RATE


def analyse(heard: Heard, signal: Float32, latency_ms: float) -> dict[str, Any]:
    """Level and SNR of the tone by the sample, and how long after their capture clicks were handed out."""
    first, samples, received = heard.timeline()
    expected = signal[(first + np.arange(len(samples))) % len(signal)]
    place = (first + np.arange(len(samples))) % len(signal)
    tone = (place > RATE // 10) & (place < 2 * RATE - RATE // 10)
    clean = tone & received & ~_near(~received, 2 * 960)
    error = samples[clean] - expected[clean]
    latencies = _click_latencies(heard, first, samples)
    added = [value - latency_ms - CODEC_MS for value in latencies]
    return {
        "seconds": len(samples) / RATE,
        "level_db": [
            float(20 * np.log10(_rms(samples[clean][:, c]) / _rms(expected[clean][:, c]))) for c in (0, 1)
        ],
        "snr_db": float(20 * np.log10(_rms(expected[clean]) / _rms(error))),
        "tone_level_db_with_losses": float(20 * np.log10(_rms(samples[tone]) / _rms(expected[tone]))),
        "clicks": len(latencies),
        "click_latency_ms": {"p50": _percentile(latencies, 50), "p99": _percentile(latencies, 99)},
        "added_latency_ms": {"p50": _percentile(added, 50), "p99": _percentile(added, 99)},
    }


def _click_latencies(heard: Heard, first: int, samples: Float32) -> list[float]:
    """From the capture of each click's sample to the moment the block that ends with or after it was handed out, ms.

    The clicks are found in what was heard; when a click was captured is what its block says of its frames.
    """
    loud = np.flatnonzero(np.abs(samples[:, 0]) > 0.4)
    onsets = [int(at) for k, at in enumerate(loud) if k == 0 or at - loud[k - 1] > RATE // 20]
    found = []
    for onset in onsets:
        for block, at_ns in zip(heard.blocks, heard.at_ns, strict=True):
            offset = first + onset - block.start
            if 0 <= offset < len(block.samples) and not block.concealed:
                captured = block.time_ns + offset * 1_000_000_000 // RATE
                # As if the click had come at the packet's beginning: what is left is the same for every click.
                found.append((at_ns - captured) / 1e6 + offset * 1000 / RATE)
    return found


def _near(mask: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    spread = np.convolve(mask.astype(np.int32), np.ones(2 * reach + 1, dtype=np.int32), "same")
    return np.asarray(spread > 0, dtype=bool)


def _rms(values: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _percentile(values: list[float], share: float) -> float:
    return round(float(np.percentile(values, share)), 3) if values else float("nan")


class LossyBus:
    """Wraps a subscriber's bus client so that audio packets are lost and reordered on the way, by a seeded choice."""

    def __init__(self, subscriber: Subscriber, *, loss: float, reorder: float, seed: int) -> None:
        self._random = random.Random(seed)
        self._loss, self._reorder = loss, reorder
        self._held: list[BusMessage] = []
        self.lost = self.reordered = self.seen = 0
        self._subscribe = subscriber.bus.subscribe
        subscriber.bus.subscribe = self.subscribe  # type: ignore[method-assign,assignment]

    async def subscribe(
        self, subject: str, callback: Callable[[BusMessage], Any] | None = None, **options: Any
    ) -> Any:
        """Subscribe as the bus does, with faults between it and ``callback``."""
        if ".audio." in subject and callback is not None:
            wanted = callback
            return await self._subscribe(subject, lambda message: self._pass(message, wanted), **options)
        return await self._subscribe(subject, callback, **options)

    def _pass(self, message: BusMessage, callback: Callable[[BusMessage], Any]) -> None:
        self.seen += 1
        # The first ones make the stream known; what is lost before it is nobody's loss.
        if self.seen > 5 and self._random.random() < self._loss:
            self.lost += 1
            return
        if self.seen > 5 and self._random.random() < self._reorder:
            self.reordered += 1
            self._held.append(message)
            return
        callback(message)
        while self._held:
            callback(self._held.pop())
