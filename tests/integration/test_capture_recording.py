"""Recorded speech through the real PortAudio: in real time by a sound server, and sample for sample.

PortAudio reads its ALSA configuration when it is loaded, so each capture is a child process with an
environment of its own. Missing packages fail these tests; they are never skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from support.pulse import (
    DEVICE,
    FILE_DEVICE,
    RECORDED_SPEECH,
    PulseRig,
    file_device_environment,
    pulse_rig,
    require_file,
    require_portaudio,
)

CAPTURE = """
import json, sys, threading, time
from stagebox_rack.audio.engine import AudioEngine
from stagebox_rack.audio.measurement import MeterMeasurement, SourceEvent
from stagebox_rack.audio.source_uri import parse_sources

source, seconds = sys.argv[1], float(sys.argv[2])
items, arrivals = [], []

def emit(item):
    items.append(item)
    if isinstance(item, SourceEvent):
        print(json.dumps({"event": item.name, "start": item.start, "detail": dict(item.detail)}), flush=True)
    if isinstance(item, MeterMeasurement):
        arrivals.append((time.monotonic_ns(), time.time_ns() - item.time_ns))

engine = AudioEngine(parse_sources([source]), emit)
engine.start()
cpu = time.process_time()
time.sleep(seconds)
cpu = time.process_time() - cpu
engine.stop()
status = engine.status()[0]
meters = [i for i in items if isinstance(i, MeterMeasurement)]
print(json.dumps({
    "status": {"state": status.state, "rate": status.rate, "channels": status.channels,
               "frames": status.frames, "gaps": status.gaps, "overruns": status.overruns,
               "losses": status.losses, "reopens": status.reopens},
    "meters": [[m.start, m.frames, m.time_ns, m.peak.tolist(), m.rms.tolist(), float(m.levels.programmes[0, 0])]
               for m in meters],
    "arrivals": arrivals, "cpu": cpu / seconds,
    "threads": [t.name for t in threading.enumerate()],
}), flush=True)
"""

RECORD = """
import sys, threading
import numpy as np
from stagebox_rack.audio.capture import CaptureClock
from stagebox_rack.audio.device import DeviceCapture
from stagebox_rack.audio.ring import Ring
from stagebox_rack.audio.source_uri import parse_source

class Enough(Ring):
    # The device has no clock: it would go round any ring before a busy machine has read it once.
    def write(self, samples, index, time_ns, flags):
        if index < frames:
            super().write(samples, index, time_ns, flags)

spec, frames, out = parse_source(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
capture = DeviceCapture(spec, lambda event: None, CaptureClock())
format_ = capture.open()
ring = Enough(frames * 4, format_.channels, min_block=64, dtype=format_.dtype)
cursor = ring.open_cursor()
capture.start(ring)
parts, have = [], 0
while have < frames:
    block = cursor.read(10)
    assert block is not None and block.index == have and not block.flags, block
    parts.append(block.samples)
    have += len(block.samples)
capture.stop()
np.save(out, np.concatenate(parts)[:frames])
"""


def speech(loops: int) -> npt.NDArray[np.int16]:
    """Debian's recorded speech, int16[frames, 2], looped; the right channel is 6 dB down."""
    require_file(RECORDED_SPEECH, "alsa-utils")
    with wave.open(str(RECORDED_SPEECH)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (48_000, 1, 2)
        mono = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    return np.tile(np.stack((mono, mono // 2), axis=1), (loops, 1)).astype(np.int16)


def capture_command(source: str, seconds: float) -> list[str]:
    return [sys.executable, "-c", CAPTURE, source, str(seconds)]


def lines_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def dbfs(samples: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    mean_square = np.mean((samples / 32768.0) ** 2, axis=0)
    levels: npt.NDArray[np.float64] = 10 * np.log10(mean_square)
    return levels


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    with pulse_rig(tmp_path) as started:
        yield started


@pytest.mark.parametrize(("format_", "seconds"), [("f32", 8.0), ("s16", 4.0)])
def test_recorded_speech_is_captured_in_real_time_without_a_gap_and_at_its_level(
    rig: PulseRig, tmp_path: Path, format_: str, seconds: float
) -> None:
    looped = speech(12)
    raw = tmp_path / "speech.raw"
    raw.write_bytes(looped.tobytes())
    player = rig.play(raw, 2)
    try:
        done = subprocess.run(
            capture_command(f"device:{DEVICE}?format={format_}", seconds),
            env=rig.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        player.terminate()
        player.wait(10)
    assert done.returncode == 0, done.stderr
    *events, result = lines_of(done.stdout)
    assert [event["event"] for event in events] == ["source_started"]
    assert result["status"]["gaps"] == result["status"]["overruns"] == 0
    assert (result["status"]["rate"], result["status"]["channels"]) == (48_000, 2)
    assert abs(result["status"]["frames"] - seconds * 48_000) < 0.25 * 48_000
    starts = [meter[0] for meter in result["meters"]]
    assert starts == [n * 2400 for n in range(len(starts))]
    assert result["threads"] == ["MainThread"]

    # Whole loops of the recording have the recording's level wherever they begin.
    loop = len(looped) // 12
    frames_a_loop = loop / 2400
    settled = result["meters"][20:]
    whole = int(len(settled) // frames_a_loop)
    assert whole >= int((seconds - 1.25) / (loop / 48_000))
    used = settled[: round(whole * frames_a_loop)]
    power = np.mean([[10 ** (level / 10) for level in meter[4]] for meter in used], axis=0)
    np.testing.assert_allclose(10 * np.log10(power), dbfs(looped[:loop]), atol=0.1)
    peaks = np.max([meter[3] for meter in used], axis=0)
    np.testing.assert_allclose(peaks, 20 * np.log10(np.abs(looped / 32768.0).max(axis=0)), atol=0.01)


def test_capture_times_follow_the_clock_evenly(rig: PulseRig) -> None:
    done = subprocess.run(
        capture_command(f"device:{DEVICE}", 2.6),
        env=rig.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    result = lines_of(done.stdout)[-1]
    times = np.array([meter[2] for meter in result["meters"] if meter[1] == 2400][10:])
    steps = np.diff(times) / 1e6
    assert len(steps) > 30
    assert np.all(np.abs(steps - 50.0) < 2.0), steps
    latency = np.array([late for _, late in result["arrivals"]]) / 1e6
    assert np.percentile(latency, 50) < 60.0, latency
    assert latency.min() >= 0.0


def test_a_sound_server_that_dies_leaves_a_gap_as_long_as_it_was_away(rig: PulseRig) -> None:
    child = subprocess.Popen(
        capture_command(f"device:{DEVICE}", 5.0), env=rig.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["event"] == "source_started"
        time.sleep(1.0)
        rig.kill_server()
        lost = json.loads(child.stdout.readline())
        assert lost["event"] == "source_lost"
        time.sleep(1.0)
        rig.start_server()
        out, _ = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait(10)
    *others, result = lines_of(out)
    # What was captured of the idle sink is digital silence, and said to be.
    [reopened, gap] = [event for event in others if event["event"] not in ("silence", "flatline")]
    assert reopened["event"] == "source_reopened"
    assert (gap["event"], gap["detail"]["cause"]) == ("gap", "device_reopened")
    assert gap["start"] == lost["start"]
    assert gap["detail"]["frames"] > 1.0 * 48_000
    meters = result["meters"]
    before = [m for m in meters if m[0] < gap["start"]]
    after = [m for m in meters if m[0] >= gap["detail"]["resumes"]]
    assert before[-1][0] + before[-1][1] == gap["start"]
    assert after[0][0] == gap["detail"]["resumes"] == gap["start"] + gap["detail"]["frames"]
    assert len(before) + len(after) == len(meters)
    # The index went on with the clock: across the gap both say the same, to within a device period or two.
    by_index = (after[0][0] + after[0][1] - before[-1][0] - before[-1][1]) / 48_000
    by_clock = (after[0][2] - before[-1][2]) / 1e9
    assert abs(by_index - by_clock) < 0.06


def test_16_bit_capture_is_exact_sample_for_sample(tmp_path: Path) -> None:
    recorded = speech(2)
    counter = np.arange(len(recorded), dtype=np.int64)
    exact = np.stack((recorded[:, 0], counter % 65_521 - 32_768), axis=1).astype(np.int16)
    raw = tmp_path / "exact.raw"
    raw.write_bytes(exact.tobytes())
    out = tmp_path / "captured.npy"
    frames = len(exact) // 480 * 480
    done = subprocess.run(
        [sys.executable, "-c", RECORD, f"device:{FILE_DEVICE}?format=s16", str(frames), str(out)],
        env=file_device_environment(tmp_path, raw, 2),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(out), exact[:frames])


@pytest.mark.parametrize("channels", [2, 16, 64])
@pytest.mark.parametrize(("format_", "alsa"), [("s32", "S32_LE"), ("s24", "S24_3LE")])
def test_a_64_bit_counter_is_captured_bit_for_bit(
    tmp_path: Path, channels: int, format_: str, alsa: str
) -> None:
    """Each frame is numbered by a counter that starts beyond 2⁶², cut into as many samples as it takes."""
    frames, width = 48_000, 4 if format_ == "s32" else 3
    numbers = np.arange(frames, dtype=np.uint64) + np.uint64((1 << 62) + 12_345)
    # As little-endian bytes, three counters a frame: 24 bytes are 6 samples of 32 bits or 8 of 24.
    sizes = -(-channels * width // 8)
    counters = numbers[:, np.newaxis] * np.uint64(sizes) + np.arange(sizes, dtype=np.uint64)
    exact = np.ascontiguousarray(counters.view(np.uint8)[:, : channels * width])
    raw = tmp_path / "exact.raw"
    raw.write_bytes(exact.tobytes())
    out = tmp_path / "captured.npy"
    spec = f"device:{FILE_DEVICE}?format={format_}&channels={channels}"
    done = subprocess.run(
        [sys.executable, "-c", RECORD, spec, str(frames), str(out)],
        env=file_device_environment(tmp_path, raw, channels, alsa),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    captured = np.ascontiguousarray(np.load(out).astype("<i4")).view(np.uint8).reshape(frames, channels, 4)
    np.testing.assert_array_equal(captured[:, :, 4 - width :].reshape(frames, -1), exact)
    if width == 3:
        assert not captured[:, :, 0].any()


@pytest.mark.slow
def test_a_minute_of_recorded_speech_has_no_gap_its_level_and_an_even_cadence(
    rig: PulseRig, tmp_path: Path
) -> None:
    looped = speech(60)
    raw = tmp_path / "speech.raw"
    raw.write_bytes(looped.tobytes())
    player = rig.play(raw, 2)
    try:
        done = subprocess.run(
            capture_command(f"device:{DEVICE}?format=s16", 60.0),
            env=rig.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        player.terminate()
        player.wait(10)
    assert done.returncode == 0, done.stderr
    *events, result = lines_of(done.stdout)
    assert [event["event"] for event in events if event["event"] not in ("silence", "flatline")] == [
        "source_started"
    ]
    assert result["status"]["gaps"] == result["status"]["overruns"] == result["status"]["losses"] == 0
    meters = result["meters"]
    assert [meter[0] for meter in meters] == [n * 2400 for n in range(len(meters))]
    assert len(meters) > 59 * 20

    loop = len(looped) // 60
    settled = meters[20:]
    whole = int(len(settled) * 2400 // loop)
    used = settled[: round(whole * loop / 2400)]
    power = np.mean([[10 ** (level / 10) for level in meter[4]] for meter in used], axis=0)
    np.testing.assert_allclose(10 * np.log10(power), dbfs(looped[:loop]), atol=0.1)

    # Cadence: how far the interval between two frames at their consumer is from the 50 ms it should be.
    intervals = np.diff([at for at, _ in result["arrivals"]]) / 1e6
    off = float(np.percentile(np.abs(intervals[20:] - 50.0), 99))
    print(
        json.dumps(
            {"frames": len(meters), "cadence_p99_off_ms": round(off, 2), "cpu": round(result["cpu"], 4)}
        )
    )
    assert off < 25.0


def test_a_device_that_is_not_there_is_refused_with_the_list_of_those_that_are(tmp_path: Path) -> None:
    require_portaudio()
    raw = tmp_path / "silence.raw"
    raw.write_bytes(bytes(4 * 48_000))
    done = subprocess.run(
        capture_command("device:no-such-interface", 1.0),
        env=file_device_environment(tmp_path, raw, 2),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "there is no such capture device" in last
    assert FILE_DEVICE in last
