"""What an audio module is given on a desk: a sound file, or a signal that is made here and said to be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from stagebox.errors import InputError
from stagebox_rack.audio.sanity import replace_bad
from stagebox_rack.desk.limits import LIMITS
from stagebox_rack.limits import LIMITS as RACK
from stagebox_rack.metering.levels import Float32

BLOCKS_PER_SECOND = 50
"""The longest block of the ABI is 20 ms, and whole frames at every rate."""

_REMEDY = "give a WAV or FLAC file with audio, or leave --wav away for a signal made here"
_SEED = 1
_SWEEP_FROM_HZ, _SWEEP_TO_HZ = 20.0, 20_000.0
_SWEEP_PEAK, _NOISE_RMS = 10 ** (-12 / 20), 10 ** (-30 / 20)


class AudioInput(Protocol):
    """Audio to run a module on; ``what`` says what it is."""

    what: str
    rate: int
    channels: int
    frames: int

    def blocks(self) -> Iterator[Float32]:
        """Yield float32[frames, channels], finite, 20 ms each but for the last."""
        ...


class MadeSignal:
    """A sine sweep on the left and noise on the right, the same in every run."""

    def __init__(self, seconds: float = LIMITS.signal_s) -> None:
        self.rate, self.channels = LIMITS.signal_rate, LIMITS.signal_channels
        self.frames = round(seconds * self.rate)
        self.what = (
            f"a signal made here: {seconds:g} s, {self.rate} Hz, left a sweep from 20 Hz to 20 kHz at -12 dBFS, "
            "right white noise at -30 dBFS RMS"
        )

    def blocks(self) -> Iterator[Float32]:
        """Yield blocks of 20 ms."""
        noise = np.random.default_rng(_SEED)
        size = self.rate // BLOCKS_PER_SECOND
        octaves = np.log(_SWEEP_TO_HZ / _SWEEP_FROM_HZ)
        duration = self.frames / self.rate
        for start in range(0, self.frames, size):
            count = min(size, self.frames - start)
            at = (start + np.arange(count)) / self.frames
            phase = 2.0 * np.pi * _SWEEP_FROM_HZ * duration / octaves * np.expm1(octaves * at)
            left = _SWEEP_PEAK * np.sin(phase)
            right = _NOISE_RMS * noise.standard_normal(count)
            yield np.stack((left, right), axis=1).astype(np.float32)


class SoundFile:
    """A file that libsndfile reads, as float32."""

    def __init__(self, path: Path) -> None:
        """Look at the file.

        Raises:
            InputError: it cannot be read, is empty, or has a rate or number of channels that no rack has.
        """
        self._path = path
        try:
            # libsndfile calls everything that it cannot open a system error.
            path.open("rb").close()
            facts = soundfile.info(str(path))
        except OSError as error:
            raise InputError(f"cannot read the sound file {path}: {error.strerror}", remedy=_REMEDY) from None
        except soundfile.SoundFileError as error:
            raise InputError(
                f"{path} is not a sound file that can be read: {error}", remedy=_REMEDY
            ) from None
        self.rate, self.channels, self.frames = facts.samplerate, facts.channels, facts.frames
        if self.rate not in RACK.audio_rates:
            allowed = ", ".join(f"{rate / 1000:g}" for rate in RACK.audio_rates)
            raise InputError(
                f"{path} has a sample rate of {self.rate} Hz; a rack has {allowed} kHz",
                remedy="convert it to one of these first",
            )
        if not 1 <= self.channels <= RACK.audio_channels:
            raise InputError(f"{path} has {self.channels} channels; a rack has up to {RACK.audio_channels}")
        if not self.frames:
            raise InputError(f"{path} holds no audio", remedy=_REMEDY)
        many = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        self.what = f"{path}: {self.frames / self.rate:.2f} s, {self.rate} Hz, {many}"

    def blocks(self) -> Iterator[Float32]:
        """Yield blocks of 20 ms; what is no sample is 0, as a rack makes it before a module.

        Raises:
            InputError: the file ends before its header says, or cannot be read on.
        """
        size = self.rate // BLOCKS_PER_SECOND
        try:
            with soundfile.SoundFile(str(self._path)) as file:
                for start in range(0, self.frames, size):
                    wanted = min(size, self.frames - start)
                    block: Float32 = file.read(wanted, dtype="float32", always_2d=True)
                    if len(block) != wanted:
                        raise InputError(
                            f"{self._path} ends at frame {start + len(block)}; its header claims more"
                        )
                    replace_bad(block)
                    yield block
        except soundfile.SoundFileError as error:
            raise InputError(f"{self._path} cannot be read: {error}") from None
