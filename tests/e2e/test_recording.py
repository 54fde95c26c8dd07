"""Recorded speech, captured by a rack through the real PortAudio in real time, checked at a verifying subscriber."""

from __future__ import annotations

import asyncio
import itertools
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import stagebox
from demo.throwaway import ThrowawayCluster
from stagebox.listening.lease import LeaseHolder
from stagebox.records.audio import AudioPacket
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame
from stagebox.subjects import Kind
from stagebox.subscriber import RecordStream
from support.pulse import DEVICE, RECORDED_SPEECH, pulse_rig, require_file, require_portaudio

SECONDS = 9
LOOP_FRAMES = 72_000  # 1.5 s: a whole number of meter frames, so any 30 of them cover the loop exactly once
RACK = "stage-left"
TOLERANCE_DB = 0.1


def _speech_loop() -> npt.NDArray[np.int16]:
    """Debian's recorded speech with the pause after it, int16[LOOP_FRAMES, 2]; the right channel is 6 dB down."""
    require_file(RECORDED_SPEECH, "alsa-utils")
    with wave.open(str(RECORDED_SPEECH)) as file:
        mono = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    padded = np.zeros(LOOP_FRAMES, dtype=np.int16)
    padded[: min(len(mono), LOOP_FRAMES)] = mono[:LOOP_FRAMES]
    return np.stack((padded, padded // 2), axis=1).astype(np.int16)


async def _take(records: RecordStream, meters: list[MeterFrame], others: list[object]) -> None:
    """Read SECONDS of meter frames from the first audio on: the lease is granted some time after frames begin."""
    audible = False
    playing = False
    heard = 0
    async for record in records:
        if record.kind in (Kind.WAL, Kind.ACK):
            # The durable path is proved by the mixer's ingest and by `wal verify` below; an ack is signed itself, and
            # that of our lease comes before the first checkpoint that names its key.
            continue
        assert record.verification == "verified", record.reason
        if isinstance(record.value, MeterFrame):
            meters.append(record.value)
            playing = playing or (audible and max(record.value.peak) > -60)
            heard += playing
            if heard > SECONDS * 20:
                return
        elif record.value is not None:
            audible = audible or isinstance(record.value, AudioPacket)
            others.append(record.value)


def _mean_dbfs(frames: list[MeterFrame], channel: int) -> float:
    """The mean power over whole frames, which is what averaging RMS values must be done in."""
    return float(10 * np.log10(np.mean([10 ** (frame.rms[channel] / 10) for frame in frames])))


async def test_recorded_speech_arrives_verified_without_a_gap_and_at_its_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_portaudio()
    loop = _speech_loop()
    raw = tmp_path / "speech.raw"
    raw.write_bytes(np.tile(loop, (40, 1)).tobytes())
    (tmp_path / "pulse").mkdir()
    with pulse_rig(tmp_path / "pulse") as rig:
        for name in ("ALSA_CONFIG_PATH", "PULSE_SERVER", "PULSE_RUNTIME_PATH", "XDG_RUNTIME_DIR"):
            if name in rig.environment:
                monkeypatch.setenv(name, rig.environment[name])
        player = rig.play(raw, 2)
        try:
            meters, others = await _listen(tmp_path)
        finally:
            player.terminate()
            player.wait()

    assert [frame.seq for frame in meters] == list(range(meters[0].seq, meters[0].seq + len(meters)))
    for earlier, later in itertools.pairwise(meters):
        assert later.start == earlier.start + earlier.frames
    assert not [event for event in others if isinstance(event, Event) and event.name == "gap"]

    packets = [packet for packet in others if isinstance(packet, AudioPacket)]
    # What no checkpoint covered yet when the last meter frame came is not here: a second, and the line's time.
    assert len(packets) >= (SECONDS - 1.5) * 50
    assert [p.start for p in packets] == list(
        range(packets[0].start, packets[0].start + 960 * len(packets), 960)
    )

    last = meters[-(SECONDS * 20 // 30) * 30 :]
    for channel in (0, 1):
        expected = 10 * np.log10(np.mean((loop[:, channel] / 32768.0) ** 2))
        assert _mean_dbfs(last, channel) == pytest.approx(expected, abs=TOLERANCE_DB)


async def _listen(directory: Path) -> tuple[list[MeterFrame], list[object]]:
    meters: list[MeterFrame] = []
    others: list[object] = []
    async with ThrowawayCluster(directory) as cluster:
        await cluster.make_keys()
        mixer = await cluster.start_mixer()
        await cluster.start_rack(RACK, f"device:{DEVICE}")
        ticket = await cluster.make_ticket(mixer, RACK)
        async with (
            stagebox.connect(mixer.snake, cluster.viewer) as viewer,
            viewer.open_records(f"rack.{RACK}.>", verify=True, on_bad="raise") as records,
        ):
            await cluster.enroll(mixer, RACK, ticket)
            lease = LeaseHolder(mixer.api, cluster.viewer, RACK, "main")
            await lease.take()
            try:
                async with asyncio.timeout(SECONDS + 30):
                    await _take(records, meters, others)
            finally:
                await lease.release()
        await cluster.stop_racks()
        journal = await cluster.verify_journal(RACK)
        assert journal["verified"] is True
    return meters, others
