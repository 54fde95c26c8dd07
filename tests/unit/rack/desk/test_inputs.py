from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stagebox.errors import InputError
from stagebox.records.meter import MeterFrame
from stagebox.subjects import Kind
from stagebox_rack.desk.audio_input import AudioInput, MadeSignal, SoundFile
from stagebox_rack.desk.levels import RunLevels
from stagebox_rack.desk.record_input import ExportedRecords, MeasuredAudio


def whole(audio: AudioInput) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.concatenate(list(audio.blocks()))


def row(kind: str, at: int, data: bytes = b"\xa0") -> str:
    encoded = base64.b64encode(data).decode()
    return json.dumps(
        {"seq": 1, "kind": kind, "time_ns": at, "subject": f"rack.x.{kind}.main", "data": encoded}
    )


def test_the_made_signal_is_the_same_every_time_and_says_what_it_is() -> None:
    signal = MadeSignal(1.01)
    first, second = whole(signal), whole(signal)
    assert first.dtype == np.float32
    assert first.shape == (signal.frames, 2) == (48_480, 2)
    assert np.array_equal(first, second)
    assert signal.what.startswith("a signal made here: 1.01 s, 48000 Hz")
    levels = RunLevels(2)
    for block in signal.blocks():
        assert len(block) <= 960
        levels.add(block)
    assert levels.peak()[0] == pytest.approx(-12.0, abs=0.01)
    assert levels.rms() == [pytest.approx(-15.01, abs=0.05), pytest.approx(-30.0, abs=0.2)]


def test_silence_reads_the_floor_of_the_meters() -> None:
    levels = RunLevels(1)
    levels.add(np.zeros((960, 1), np.float32))
    assert levels.peak() == levels.rms() == [-150.0]


def test_a_sound_file_comes_in_blocks_of_20_ms_and_whole(tmp_path: Path) -> None:
    samples = np.linspace(-1, 1, 2_000, dtype=np.float32)[:, None].repeat(3, axis=1)
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    audio = SoundFile(tmp_path / "a.wav")
    assert [len(block) for block in audio.blocks()] == [882, 882, 236]
    assert np.array_equal(whole(audio), samples)
    assert "44100 Hz, 3 channels" in audio.what


def test_what_is_no_sample_is_silence_as_a_rack_makes_it(tmp_path: Path) -> None:
    samples = np.array([[0.5], [np.nan], [np.inf], [0.25]], np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 48_000, subtype="FLOAT")
    assert whole(SoundFile(tmp_path / "a.wav")).ravel().tolist() == [0.5, 0.0, 0.0, 0.25]


def test_a_file_that_no_rack_could_play_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "slow.wav", np.zeros((10, 1)), 8_000)
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 48_000)
    (tmp_path / "text.wav").write_text("hello")
    for name, complaint in (
        ("slow", "8000 Hz"),
        ("empty", "no audio"),
        ("text", "not a sound file"),
        ("no", "cannot read .*No such file"),
    ):
        with pytest.raises(InputError, match=complaint):
            SoundFile(tmp_path / f"{name}.wav")


def test_a_file_that_is_shorter_than_it_says_is_an_error_and_not_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(1).uniform(-1, 1, (48_000, 1)), 48_000)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError):
        whole(SoundFile(tmp_path / "a.flac"))


def test_measured_audio_is_meter_frames_as_racks_make_them() -> None:
    records = MeasuredAudio(MadeSignal(1.03))
    items = list(records.records())
    assert len(items) == records.count == 20
    assert {(item.kind, item.subject) for item in items} == {(Kind.METER, "rack.desk.meter.main")}
    frames = [MeterFrame.decode(item.data) for item in items]
    assert [frame.seq for frame in frames] == list(range(20))
    assert [frame.start for frame in frames] == list(range(0, 48_000, 2_400))
    assert frames[-1].peak[0] == pytest.approx(-12.0, abs=0.1)
    assert "measured here" in records.what


def test_an_export_gives_what_modules_are_given_and_nothing_else(tmp_path: Path) -> None:
    kinds = ("meter", "checkpoint", "event", "alert", "status")
    path = tmp_path / "r.jsonl"
    path.write_text(
        "\n".join(row(kind, 2_000_000_000 * n, kind.encode()) for n, kind in enumerate(kinds)) + "\n"
    )
    records = ExportedRecords(path)
    assert [item.kind.value for item in records.records()] == ["meter", "event", "alert"]
    assert [item.data for item in records.records()] == [b"meter", b"event", b"alert"]
    assert (records.count, records.seconds) == (3, 6.0)


def test_an_export_in_parquet_gives_the_same(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    at = pa.array([1, 5_000_000_001], pa.timestamp("ns", tz="UTC"))
    table = pa.table(
        {
            "seq": pa.array([1, 2], pa.uint64()),
            "kind": ["meter", "event"],
            "time": at,
            "subject": ["rack.x.meter.main", "rack.x.event"],
            "data": pa.array([b"m", b"e"], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "r.parquet")
    records = ExportedRecords(tmp_path / "r.parquet")
    assert [(item.kind.value, item.data) for item in records.records()] == [("meter", b"m"), ("event", b"e")]
    assert records.seconds == 5.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hello\n", "line 1 of"),
        (row("meter", 1) + '\n{"kind": "meter"}\n', "line 2 of"),
        (row("meter", 1).replace("oA==", "%%%"), "line 1 of"),
        (row("status", 1), "holds no meter frame"),
        ("", "holds no meter frame"),
    ],
)
def test_what_is_no_export_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(InputError, match=complaint):
        ExportedRecords(tmp_path / "r.jsonl")
    (tmp_path / "r.parquet").write_text(text)
    with pytest.raises(InputError, match="no export of a journal"):
        ExportedRecords(tmp_path / "r.parquet")
