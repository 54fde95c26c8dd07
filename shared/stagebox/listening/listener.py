"""A listener: packets of one bus in, blocks of audio out, in time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np

from stagebox.errors import BusError, DecodeError, StageboxError
from stagebox.listening.concealment import Concealer, Float32
from stagebox.listening.decoding import OpusDecoder
from stagebox.listening.jitter import Gap, JitterBuffer, JitterCounters, Lost, Output, Packet
from stagebox.listening.lease import LeaseHolder
from stagebox.listening.limits import LISTEN_LIMITS, ListenLimits
from stagebox.records.audio import AudioPacket
from stagebox.subscriber.stream import RecordStream
from stagebox.tasks import end_tasks

_NS = 1_000_000_000


@dataclass(frozen=True)
class AudioBlock:
    """Audio at 48 kHz: ``samples`` float32[frames, channels] from frame ``start`` of the bus.

    ``time_ns`` is the capture time of its first frame by the rack's clock. A ``concealed`` block stands for audio
    that was lost on the way and is made up. ``gap_before`` frames between the last block and this one were never
    sent, or the network was away; nothing stands for them. ``restarted``: the rack began anew, and frames count from
    there.
    """

    samples: Float32
    start: int
    time_ns: int
    concealed: bool = False
    gap_before: int = 0
    restarted: bool = False


@dataclass
class ListenStats:
    """What a listener counted; the packets' fate is in ``packets``."""

    packets: JitterCounters
    blocks: int = 0
    frames: int = 0
    concealed_frames: int = 0
    gap_frames: int = 0
    undecodable: int = 0


class Listener:
    """An asynchronous iterator of blocks. Made by :meth:`stagebox.subscriber.Subscriber.listen`."""

    rate = LISTEN_LIMITS.rate

    def __init__(
        self,
        stream: RecordStream,
        lease: LeaseHolder,
        *,
        rack: str,
        bus: str,
        latency_ms: float,
        limits: ListenLimits = LISTEN_LIMITS,
    ) -> None:
        self._stream = stream
        self._lease = lease
        self._rack = rack
        self._bus = bus
        self._limits = limits
        self._buffer = JitterBuffer(latency_ms / 1000.0, limits)
        self._pending: deque[Output] = deque()
        self._arrived = asyncio.Event()
        self._decoder: OpusDecoder | None = None
        self._concealer: Concealer | None = None
        self._channels = 0
        self._gap = 0
        self._restarted = False
        self._trim = 0
        self._time_of: tuple[int, int] = (0, 0)  # a frame and its capture time
        self._failure: BaseException | None = None
        self._reading: asyncio.Task[None] | None = None
        self._began = 0.0
        self.stats = ListenStats(self._buffer.counters)

    @property
    def buffered_ms(self) -> float:
        """How much audio waits to be played."""
        return self._buffer.waiting * self._limits.packet_frames * 1000.0 / self._limits.rate

    def begin(self) -> None:
        """Read packets from now on."""
        self._began = time.monotonic()
        self._reading = asyncio.create_task(self._read(), name=f"listen-{self._rack}-{self._bus}")

    async def end(self) -> None:
        """Read no more."""
        if self._reading is not None:
            await end_tasks([self._reading])

    async def __aiter__(self) -> AsyncIterator[AudioBlock]:
        """Yield blocks as they become due.

        Raises:
            VerificationError: a packet was not the rack's. BusError: nothing comes. StageboxError: the lease was lost.
        """
        while True:
            output = self._pending.popleft() if self._pending else self._buffer.pop(time.monotonic())
            if output is None:
                await self._wait()
                continue
            block = self._render(output)
            if block is not None:
                self.stats.blocks += 1
                self.stats.frames += len(block.samples)
                yield block

    async def _wait(self) -> None:
        """Wait until something is due or arrives."""
        if self._failure is not None:
            raise self._failure
        if self._lease.failure is not None:
            raise self._lease.failure
        now, due = time.monotonic(), self._buffer.next_due()
        quiet = self._limits.first_packet_s
        if self.stats.packets.received == 0 and now - self._began > quiet:
            raise BusError(
                f"rack {self._rack!r} sends nothing on bus {self._bus!r}: no packet within {quiet:g} s",
                remedy=f"see its sources and buses with `stagebox admin racks show {self._rack}`",
            )
        self._arrived.clear()
        wait = 0.5 if due is None else max(0.0, due - now)
        try:
            async with asyncio.timeout(wait):
                await self._arrived.wait()
        except TimeoutError:
            return

    async def _read(self) -> None:
        try:
            async for record in self._stream:
                packet = record.value
                if isinstance(packet, AudioPacket) and packet.codec == "opus" and packet.channels in (1, 2):
                    self._pending += self._buffer.push(
                        Packet(
                            packet.boot,
                            packet.seq,
                            packet.start,
                            packet.frames,
                            packet.channels,
                            packet.time_ns,
                            packet.data,
                        ),
                        time.monotonic(),
                    )
                    self._arrived.set()
        except StageboxError as error:
            self._failure = error
            self._arrived.set()

    def _render(self, output: Output) -> AudioBlock | None:
        match output:
            case Packet():
                return self._decode(output)
            case Lost():
                return self._conceal(output)
            case Gap():
                self._gap += output.frames
                self.stats.gap_frames += output.frames
                self._restarted = self._restarted or output.restart
                if self._concealer is not None:
                    self._concealer.forget()
                self._decoder = None
        return None

    def _decode(self, packet: Packet) -> AudioBlock | None:
        if self._decoder is None or packet.channels != self._channels:
            self._decoder = OpusDecoder(packet.channels)
            if packet.channels != self._channels or self._concealer is None:
                self._concealer = Concealer(packet.channels, self._limits)
            self._channels = packet.channels
            self._trim = self._limits.codec_delay
        try:
            samples = self._decoder.decode(packet.data)
        except DecodeError:
            self.stats.undecodable += 1
            return self._conceal(Lost(packet.start, packet.frames))
        assert self._concealer is not None
        start = packet.start - self._limits.codec_delay + self._trim
        samples, self._trim = samples[self._trim :], 0
        ends = packet.start + packet.frames
        self._time_of = (ends, packet.time_ns)
        return self._block(self._concealer.received(samples), start, concealed=False)

    def _conceal(self, lost: Lost) -> AudioBlock | None:
        if self._concealer is None or self._decoder is None:
            self._gap += lost.frames
            self.stats.gap_frames += lost.frames
            return None
        self.stats.concealed_frames += lost.frames
        made = self._concealer.conceal(lost.frames)
        return self._block(made, lost.start - self._limits.codec_delay, concealed=True)

    def _block(self, samples: Float32, start: int, *, concealed: bool) -> AudioBlock:
        frame, time_ns = self._time_of
        gap, self._gap = self._gap, 0
        restarted, self._restarted = self._restarted, False
        return AudioBlock(
            np.ascontiguousarray(samples),
            start,
            time_ns + (start - frame) * _NS // self._limits.rate,
            concealed,
            gap,
            restarted,
        )
