"""File sources: real files played in real time; bad ones refused before anything runs."""

from __future__ import annotations

import io
import struct
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from stagebox.errors import InputError
from stagebox_rack.audio.capture import CaptureClock, StreamFormat
from stagebox_rack.audio.file_source import FileCapture
from stagebox_rack.audio.measurement import SourceState
from stagebox_rack.audio.riff import missing_audio_bytes
from stagebox_rack.audio.ring import Ring
from stagebox_rack.audio.source_uri import FileSource

RAMP = (np.arange(4800, dtype=np.int16)[:, np.newaxis] * np.array([1, -1], dtype=np.int16)).astype(np.int16)


def write(path: Path, data: np.ndarray = RAMP, rate: int = 48_000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, data, rate, subtype=subtype)
    return path


def capture(path: Path, *, loop: bool = False) -> FileCapture:
    return FileCapture(FileSource("main", str(path), loop), lambda event: None, CaptureClock())


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "PCM_24"), ("flac", "PCM_16")])
def test_a_file_is_captured_sample_for_sample_and_then_ends(
    tmp_path: Path, suffix: str, subtype: str
) -> None:
    source = capture(write(tmp_path / f"ramp.{suffix}", subtype=subtype))
    opened = source.open()
    bits = 24 if subtype == "PCM_24" else 16
    assert opened == StreamFormat(48_000, 2, np.dtype(np.int32 if bits == 24 else np.int16), bits)
    ring = Ring(48_000, 2, min_block=64, dtype=opened.dtype)
    cursor = ring.open_cursor()
    source.start(ring)
    parts: list[npt.NDArray[np.generic]] = []
    times: list[int] = []
    while not cursor.at_end:
        block = cursor.read(5)
        if block is not None:
            assert block.index == sum(len(part) for part in parts)
            parts.append(block.samples)
            times.append(block.time_ns - block.index * 1_000_000_000 // 48_000)
    source.stop()
    captured = np.concatenate(parts).astype(np.int64)
    np.testing.assert_array_equal(captured >> (16 if bits == 24 else 0), RAMP)
    assert source.state is SourceState.ENDED
    assert max(times) - min(times) < 2_000_000  # paced by one clock, without drift


def test_a_looped_file_goes_round_without_a_seam(tmp_path: Path) -> None:
    source = capture(write(tmp_path / "odd.wav", RAMP[:701]), loop=True)
    opened = source.open()
    ring = Ring(48_000, 2, min_block=64, dtype=opened.dtype)
    cursor = ring.open_cursor()
    source.start(ring)
    collected = np.empty((0, 2), dtype=np.int16)
    while len(collected) < 3000:
        block = cursor.read(5)
        assert block is not None
        collected = np.concatenate((collected, block.samples))
    source.stop()
    assert source.state is SourceState.STOPPED
    np.testing.assert_array_equal(collected[:3000], np.tile(RAMP[:701], (5, 1))[:3000])
    assert not [thread for thread in threading.enumerate() if thread.name == "capture-main"]


def test_a_wav_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.wav")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"cut\.wav is truncated: 1000 bytes") as caught:
        capture(path).open()
    assert caught.value.remedy


def test_a_flac_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-9999, 9999, (48_000, 2)).astype(np.int16)
    path = write(tmp_path / "cut.flac", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.flac"):
        capture(path).open()


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 47_999, 384_000])
def test_an_odd_rate_is_refused_with_the_way_to_convert_it(tmp_path: Path, rate: int) -> None:
    with pytest.raises(InputError, match=rf"odd\.wav has a sample rate of {rate} Hz") as caught:
        capture(write(tmp_path / "odd.wav", rate=rate)).open()
    assert caught.value.remedy is not None
    assert "sox" in caught.value.remedy


def test_too_many_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="65 channels"):
        capture(write(tmp_path / "wide.wav", np.zeros((10, 65), dtype=np.int16))).open()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be opened"),
        (b"", "is not a sound file"),
        (b"not a sound file at all", "is not a sound file"),
    ],
)
def test_what_is_not_a_sound_file_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        capture(path).open()


def test_a_directory_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        capture(tmp_path).open()
    with pytest.raises(InputError, match="holds no audio"):
        capture(write(tmp_path / "empty.wav", RAMP[:0])).open()


def test_a_file_that_shrinks_while_it_plays_is_an_error_and_not_silence(tmp_path: Path) -> None:
    path = write(tmp_path / "shrinks.wav", np.tile(RAMP, (400, 1)))
    source = capture(path)
    source.open()
    with path.open("r+b") as file:
        file.truncate(200_000)
    ring = Ring(48_000 * 4, 2, min_block=64, dtype=np.int16)
    cursor = ring.open_cursor()
    source.start(ring)
    frames = 0
    while not cursor.at_end:
        block = cursor.read(10)
        frames += 0 if block is None else len(block.samples)
    source.stop()
    assert source.state is SourceState.ERROR
    assert "shrinks.wav ends at frame" in source.reason
    assert frames <= 50_000


@pytest.mark.parametrize(
    ("subtype", "dtype", "bits"),
    [("PCM_U8", np.int16, 8), ("PCM_16", np.int16, 16), ("PCM_24", np.int32, 24), ("PCM_32", np.int32, 32),
     ("FLOAT", np.float32, 32), ("DOUBLE", np.float32, 32)],
)  # fmt: skip
def test_a_file_keeps_its_own_sample_type(tmp_path: Path, subtype: str, dtype: type, bits: int) -> None:
    source = capture(write(tmp_path / "x.wav", RAMP / 32_768, subtype=subtype))
    opened = source.open()
    assert (opened.dtype, opened.bits) == (np.dtype(dtype), bits)
    source.stop()


@pytest.mark.parametrize("subtype", ["PCM_32", "FLOAT"])
def test_every_bit_of_a_file_arrives(tmp_path: Path, subtype: str) -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(-(1 << 31), 1 << 31, (4800, 2), dtype=np.int64).astype(np.int32)
    data = bits if subtype == "PCM_32" else (bits / np.float64(1 << 31)).astype(np.float32)
    source = capture(write(tmp_path / "x.wav", data, subtype=subtype))
    ring = Ring(48_000, 2, min_block=64, dtype=source.open().dtype)
    cursor = ring.open_cursor()
    source.start(ring)
    parts = []
    while not cursor.at_end:
        block = cursor.read(5)
        if block is not None:
            parts.append(block.samples)
    source.stop()
    np.testing.assert_array_equal(np.concatenate(parts).view(np.int32), data.view(np.int32))


@pytest.mark.parametrize("at", [0.3, 0.5, 0.8])
def test_a_flac_damaged_in_the_middle_ends_as_an_error_and_never_as_silence_or_noise(
    tmp_path: Path, at: float
) -> None:
    rng = np.random.default_rng(0)
    original = (rng.standard_normal((96_000, 2)) * 3000).astype(np.int16)
    path = write(tmp_path / "damaged.flac", original)
    data = bytearray(path.read_bytes())
    middle = int(len(data) * at)
    data[middle : middle + 64] = bytes(byte ^ 0x5A for byte in data[middle : middle + 64])
    path.write_bytes(data)
    source = capture(path)
    ring = Ring(96_000 * 2, 2, min_block=64, dtype=source.open().dtype)
    cursor = ring.open_cursor()
    source.start(ring)
    parts = []
    while not cursor.at_end:
        block = cursor.read(10)
        if block is not None:
            parts.append(block.samples)
    source.stop()
    assert source.state is SourceState.ERROR
    assert "damaged.flac" in source.reason
    got = np.concatenate(parts)
    assert len(got) < len(original)
    np.testing.assert_array_equal(got, original[: len(got)])


def riff(chunks: list[tuple[bytes, int, bytes]], kind: bytes = b"RIFF") -> io.BytesIO:
    order = ">" if kind == b"RIFX" else "<"
    body = b"".join(name + struct.pack(f"{order}I", size) + data for name, size, data in chunks)
    return io.BytesIO(kind + struct.pack(f"{order}I", 4 + len(body)) + b"WAVE" + body)


@pytest.mark.parametrize(
    ("file", "missing"),
    [
        (riff([(b"fmt ", 16, bytes(16)), (b"data", 8, bytes(8))]), 0),
        (riff([(b"fmt ", 16, bytes(16)), (b"data", 8, bytes(5))]), 3),
        (riff([(b"junk", 3, bytes(4)), (b"data", 8, bytes(8)), (b"LIST", 2, bytes(2))]), 0),
        (riff([(b"junk", 3, bytes(4)), (b"data", 8, bytes(6))]), 2),
        (riff([(b"data", 100, bytes(60))], b"RIFX"), 40),
        (riff([(b"data", 0xFFFFFFFF, bytes(60))]), 0),
        (
            riff([(b"ds64", 24, struct.pack("<QQQ", 0, 100, 0)), (b"data", 0xFFFFFFFF, bytes(60))], b"RF64"),
            40,
        ),
        (riff([(b"ds64", 24, struct.pack("<QQQ", 0, 60, 0)), (b"data", 0xFFFFFFFF, bytes(60))], b"RF64"), 0),
        (riff([(b"fmt ", 16, bytes(16))]), 0),
        (io.BytesIO(b"fLaC" + bytes(40)), 0),
        (io.BytesIO(b""), 0),
    ],
)
def test_missing_audio_is_counted_in_bytes(file: io.BytesIO, missing: int) -> None:
    assert missing_audio_bytes(file) == missing
