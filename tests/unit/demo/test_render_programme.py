from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from scipy.signal import resample_poly

from demo import render_programme
from stagebox_rack.metering.layout import MeterLayout, Programme
from stagebox_rack.metering.meter import Meter

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programme") / "programme.wav"
    render_programme.write(path)
    return path


@pytest.fixture(scope="module")
def samples(path: Path) -> npt.NDArray[np.float64]:
    samples, rate = soundfile.read(path)
    assert rate == 48_000
    return np.asarray(samples)


def test_it_is_30_seconds_of_48_khz_stereo(samples: npt.NDArray[np.float64]) -> None:
    assert samples.shape == (30 * 48_000, 2)


def test_rendering_again_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.wav"
    render_programme.write(again)
    assert again.read_bytes() == path.read_bytes()


def test_its_loudness_is_minus_23_lufs_by_the_racks_own_meter(samples: npt.NDArray[np.float64]) -> None:
    meter = Meter(MeterLayout(48_000, 2, (Programme("all", (0, 1), (1.0, 1.0)),)))
    levels = [meter.measure(block) for block in samples.astype(np.float32).reshape(-1, 2400, 2)]
    momentary = np.array([entry.programmes[0, 0] for entry in levels])
    assert levels[-1].programmes[0, 2] == pytest.approx(-23, abs=0.2)
    assert momentary[8:].max() - momentary[8:].min() > 4, "it must look alive on a meter"


def test_its_true_peak_is_below_minus_3_dbtp(samples: npt.NDArray[np.float64]) -> None:
    peak = np.abs(resample_poly(samples, 4, 1, axis=0)).max()
    assert 20 * np.log10(peak) < -3


def test_it_loops_without_a_click(samples: npt.NDArray[np.float64]) -> None:
    steps = np.abs(np.diff(samples, axis=0)).max(axis=1)
    seam = np.abs(samples[0] - samples[-1]).max()
    assert seam <= np.quantile(steps, 0.999)
    assert seam < 0.1


def test_the_channels_differ(samples: npt.NDArray[np.float64]) -> None:
    assert np.abs(samples[:, 0] - samples[:, 1]).max() > 0.05
