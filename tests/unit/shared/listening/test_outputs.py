"""A WAV of what was heard: gaps at their length, the header right at every moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from stagebox.errors import InputError
from stagebox.listening.listener import AudioBlock
from stagebox.listening.outputs import WavOutput


def block(
    value: float, start: int, *, gap: int = 0, channels: int = 2, concealed: bool = False
) -> AudioBlock:
    return AudioBlock(np.full((960, channels), value, dtype=np.float32), start, 0, concealed, gap)


def test_a_gap_is_silence_of_its_length_and_is_reported_with_its_place(tmp_path: Path) -> None:
    output = WavOutput(tmp_path / "x.wav")
    output.write(block(0.25, 0))
    output.write(block(0.5, 960 + 100_000, gap=100_000))
    report = output.close()
    samples, rate = soundfile.read(tmp_path / "x.wav")
    assert (rate, samples.shape) == (48_000, (960 * 2 + 100_000, 2))
    assert not samples[960:100_960].any()
    assert samples[0, 0] == pytest.approx(0.25, abs=1e-6)
    assert samples[-1, 1] == pytest.approx(0.5, abs=1e-6)
    assert report["gaps_at"] == [[0.02, pytest.approx(100_000 / 48_000, abs=1e-6)]]
    assert soundfile.info(tmp_path / "x.wav").format in ("WAV", "WAVEX"), "short enough for a plain header"


def test_the_file_can_be_read_at_any_moment_without_being_closed(tmp_path: Path) -> None:
    output = WavOutput(tmp_path / "x.wav")
    for number in range(5):
        output.write(block(0.1, number * 960))
        assert soundfile.info(tmp_path / "x.wav").frames == (number + 1) * 960
    output.close()


def test_a_source_that_changes_its_channels_goes_on_in_the_same_file(tmp_path: Path) -> None:
    output = WavOutput(tmp_path / "x.wav")
    output.write(block(0.2, 0))
    output.write(block(0.4, 960, channels=1))
    output.close()
    samples, _ = soundfile.read(tmp_path / "x.wav")
    assert samples[-1].tolist() == pytest.approx([0.4, 0.4], abs=1e-6)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_heard(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no directory"):
        WavOutput(tmp_path / "absent" / "x.wav")
    with pytest.raises(InputError, match="is not a file"):
        WavOutput(tmp_path)


def test_nothing_heard_is_no_file(tmp_path: Path) -> None:
    assert WavOutput(tmp_path / "x.wav").close() == {}
    assert not (tmp_path / "x.wav").exists()
