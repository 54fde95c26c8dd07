"""The ``file:`` source: any sound file libsndfile reads, played in real time, once or for ever.

Samples keep the file's own type, bit for bit. Rules: a file that is truncated, has a rate no meter supports or too many
channels is refused at `open`; a file that turns out shorter while it plays is an error, never silence; the end without
``loop=1`` ends the source and not the rack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import soundfile

from stagebox.errors import InputError
from stagebox_rack.audio.capture import CaptureClock, Notify, StreamFormat
from stagebox_rack.audio.paced import PacedCapture
from stagebox_rack.audio.riff import missing_audio_bytes
from stagebox_rack.audio.source_uri import SETTING, FileSource
from stagebox_rack.limits import LIMITS

_FLOAT: Final[tuple[np.dtype[Any], int]] = (np.dtype(np.float32), 32)
# What holds every sample of a file bit for bit; everything else (float, double, lossy codecs) is read as float32.
_NATIVE: Final[dict[str, tuple[np.dtype[Any], int]]] = {
    "PCM_S8": (np.dtype(np.int16), 8),
    "PCM_U8": (np.dtype(np.int16), 8),
    "PCM_16": (np.dtype(np.int16), 16),
    "PCM_24": (np.dtype(np.int32), 24),
    "PCM_32": (np.dtype(np.int32), 32),
}


class FileCapture(PacedCapture):
    """Plays one file into the ring."""

    def __init__(self, spec: FileSource, notify: Notify, clock: CaptureClock) -> None:
        """Make the capture of the file ``spec`` names."""
        super().__init__(spec.name, notify, clock)
        self._spec = spec
        self._file: soundfile.SoundFile | None = None
        self._position = 0
        self._dtype, _ = _FLOAT

    def open(self) -> StreamFormat:
        """Open and check the file.

        Raises:
            InputError: it cannot be read, is truncated or empty, or its rate or channels are not supported.
        """
        path = self._spec.path
        _refuse_truncated_wav(path)
        try:
            file = soundfile.SoundFile(path)
        except (soundfile.SoundFileError, OSError) as error:
            raise InputError(
                f"{SETTING}: {path} is not a sound file that can be read: {error}",
                remedy="use WAV, RF64, FLAC, CAF, AIFF or Ogg; `sndfile-info` shows what is wrong with it",
            ) from error
        try:
            _check_format(path, file)
            _check_last_frame(path, file)
        except BaseException:
            file.close()
            raise
        self._file = file
        self._dtype, bits = _NATIVE.get(file.subtype, _FLOAT)
        self._format = StreamFormat(file.samplerate, file.channels, self._dtype, bits)
        return self._format

    def _next_block(self, frames: int) -> npt.NDArray[np.generic]:
        first = self._read(frames)
        if not self._spec.loop or len(first) == frames:
            return first
        parts, have = [first], len(first)
        while have < frames:
            self._rewind()
            part = self._read(frames - have)
            parts.append(part)
            have += len(part)
        return np.concatenate(parts)

    def _read(self, frames: int) -> npt.NDArray[np.generic]:
        file, name = self._opened(), self._dtype.name
        wanted = min(frames, file.frames - self._position)
        if wanted <= 0:
            return np.empty((0, file.channels), dtype=self._dtype)
        try:
            block: npt.NDArray[np.generic] = file.read(wanted, dtype=name, always_2d=True)
        except soundfile.SoundFileError as error:
            raise InputError(
                f"{self._spec.path} cannot be read at frame {self._position}: {error}"
            ) from error
        if len(block) < wanted:
            got = self._position + len(block)
            raise InputError(f"{self._spec.path} ends at frame {got}; its header claims {file.frames}")
        self._position += wanted
        return block

    def _rewind(self) -> None:
        self._opened().seek(0)
        self._position = 0

    def _opened(self) -> soundfile.SoundFile:
        if self._file is None:
            raise RuntimeError("the file is not open")
        return self._file

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _refuse_truncated_wav(path: str) -> None:
    try:
        with Path(path).open("rb") as stream:
            missing = missing_audio_bytes(stream)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"{SETTING}: {path} cannot be opened: {reason}",
            remedy="check the path and that the rack's user may read the file",
        ) from error
    if missing:
        raise InputError(
            f"{SETTING}: {path} is truncated: {missing} bytes of audio its header claims are not there",
            remedy=f"copy the file again, or keep what there is: sox --ignore-length {path} repaired.wav",
        )


def _check_format(path: str, file: soundfile.SoundFile) -> None:
    if file.samplerate not in LIMITS.audio_rates:
        allowed = ", ".join(f"{rate / 1000:g}" for rate in LIMITS.audio_rates)
        raise InputError(
            f"{SETTING}: {path} has a sample rate of {file.samplerate} Hz; supported are {allowed} kHz",
            remedy=f"convert it with: sox {path} -r 48000 converted.wav",
        )
    if file.channels > LIMITS.audio_channels:
        raise InputError(
            f"{SETTING}: {path} has {file.channels} channels; at most {LIMITS.audio_channels} are supported",
            remedy="split the file into several sources",
        )
    if file.frames == 0:
        raise InputError(
            f"{SETTING}: {path} holds no audio",
            remedy="give a file that has at least one sample frame",
        )


def _check_last_frame(path: str, file: soundfile.SoundFile) -> None:
    """Read the last frame the header promises: a cut FLAC says its full length and fails here."""
    try:
        file.seek(file.frames - 1)
        got = len(file.read(1, dtype="float32", always_2d=True))
        file.seek(0)
    except soundfile.SoundFileError:
        got = 0
    if got != 1:
        raise InputError(
            f"{SETTING}: {path} is truncated: not all {file.frames} frames its header claims are there",
            remedy="copy the file again, or decode what is there with: flac -d --decode-through-errors",
        )
