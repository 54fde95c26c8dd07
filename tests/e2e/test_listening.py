"""A known signal from the source through capture, mix, Opus, the snake and the SDK's decoder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagebox
from stagebox.identity import Role
from stagebox.records.audio import AudioPacket
from stagebox.subscriber import Subscriber
from support.cluster import RunningMixer, make_cluster, running_mixer
from support.listening import Heard, LossyBus, analyse, hear, known_signal
from support.racks import hear as hear_bus
from support.racks import relay, running_rack

LATENCY_MS = 60.0
CALM_MS = 200.0  # what is late is a fault that was injected, and not a machine that was busy
SECONDS = 12.5


@asynccontextmanager
async def chain(directory: Path) -> AsyncIterator[tuple[RunningMixer, Any]]:
    """A mixer and an enrolled rack that plays the known signal."""
    signal = known_signal(directory / "known.wav")
    cluster = make_cluster(directory, "flux-test", datetime.now(UTC))
    async with running_mixer(cluster, directory / "data") as mixer:
        await mixer.enroll(directory / "rack", "left")
        source = f"file:{directory}/known.wav?loop=1"
        async with running_rack(directory / "rack", sources=(source,)):
            yield mixer, signal


def viewer(mixer: RunningMixer) -> Subscriber:
    return stagebox.connect(mixer.snake, mixer.cluster.client(Role.VIEWER), mixer=mixer.https)


def report(name: str, heard: Heard, figures: dict[str, Any]) -> None:
    assert heard.stats is not None
    print(json.dumps({name: figures, "packets": vars(heard.stats.packets)}))


async def test_a_known_signal_is_heard_at_its_level_in_time_and_only_while_somebody_listens(
    tmp_path: Path,
) -> None:
    async with chain(tmp_path) as (mixer, signal), relay(mixer) as everything:
        on_the_bus = await hear_bus(everything, "rack.*.audio.>")
        statuses = await hear_bus(everything, "rack.*.status")
        await statuses.next(2)
        assert on_the_bus.messages == [], "nobody listens: an idle rack uses no uplink"
        async with viewer(mixer) as bus:
            heard = await hear(bus, "left", SECONDS, latency_ms=LATENCY_MS)
        await statuses.next(2)
        sent = len(on_the_bus.messages)
        await statuses.next(1)
        assert len(on_the_bus.messages) == sent, "it went on after the last listener left"
    figures = analyse(heard, signal, LATENCY_MS)
    report("clean", heard, figures)
    assert heard.stats is not None
    assert (heard.stats.concealed_frames, heard.stats.gap_frames) == (0, 0)
    starts = [block.start for block in heard.blocks]
    assert all(
        b.start == a.start + len(a.samples) for a, b in zip(heard.blocks, heard.blocks[1:], strict=False)
    )
    assert starts == sorted(starts)
    assert figures["level_db"] == pytest.approx([0.0, 0.0], abs=0.5)
    assert figures["snr_db"] > 20
    assert figures["clicks"] >= 10
    # Sane, not fast: the figures themselves are a benchmark's.
    assert LATENCY_MS < figures["click_latency_ms"]["p50"] < 500


async def test_5_per_cent_loss_and_reordering_are_concealed_counted_and_heard_through(tmp_path: Path) -> None:
    async with chain(tmp_path) as (mixer, signal), viewer(mixer) as bus:
        faults = LossyBus(bus, loss=0.05, reorder=0.05, seed=4)
        heard = await hear(bus, "left", SECONDS, latency_ms=CALM_MS)
    figures = analyse(heard, signal, CALM_MS)
    report("lossy", heard, figures)
    stats = heard.stats
    assert stats is not None
    assert faults.lost > 10
    assert faults.reordered > 10
    packets = stats.packets
    # What was lost at the very end may not have been missed yet.
    assert faults.lost - 4 <= packets.lost <= faults.lost + 1
    assert packets.late == 0, "the buffer is longer than the reordering"
    assert packets.reordered >= faults.reordered - 4
    assert stats.concealed_frames == packets.lost * 960
    assert stats.gap_frames == 0
    assert all(
        b.start == a.start + len(a.samples) for a, b in zip(heard.blocks, heard.blocks[1:], strict=False)
    )
    assert figures["level_db"] == pytest.approx([0.0, 0.0], abs=0.5)
    assert figures["snr_db"] > 15
    assert figures["tone_level_db_with_losses"] == pytest.approx(0.0, abs=1.0)
    loudest = max(float(np.abs(block.samples).max()) for block in heard.blocks)
    assert loudest < 1.2, "concealment makes no noise"


async def test_packets_that_are_not_the_racks_end_the_listening(tmp_path: Path) -> None:
    async with chain(tmp_path) as (mixer, _signal), relay(mixer) as forger, viewer(mixer) as bus:
        with pytest.raises(stagebox.VerificationError):
            async with bus.listen("left") as listener, asyncio.timeout(20):
                count = 0
                async for _block in listener:
                    count += 1
                    if count == 10:
                        real = await hear_bus(forger, "rack.left.audio.main")
                        [message] = await real.next()
                        packet = AudioPacket.decode(message.payload)
                        forged = AudioPacket(
                            packet.seq + 5,
                            packet.boot,
                            packet.time_ns,
                            packet.start + 4800,
                            960,
                            48_000,
                            2,
                            b"\xfc\xff\xfe",
                        )
                        forger.publish("rack.left.audio.main", forged.encode())
