"""Where heard audio goes: a WAV file, or this machine's sound device.

Rules: what was lost is written as it was concealed, a gap as silence of its length, and both are in the report; a
file's header is right however the program ends.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from stagebox.errors import CaptureError, InputError
from stagebox.listening.concealment import Float32
from stagebox.listening.limits import LISTEN_LIMITS
from stagebox.listening.listener import AudioBlock

# libsndfile commands that soundfile has no names for: a plain WAV header while the file is short enough for one, and a
# header that is right after every write.
_AUTO_DOWNGRADE = 0x1210
_UPDATE_HEADER = 0x1061


class Output(Protocol):
    """Takes blocks in order."""

    def write(self, block: AudioBlock) -> None:
        """Take one."""

    def close(self) -> dict[str, Any]:
        """Finish and return what there is to report."""


class WavOutput:
    """A 24-bit WAV (RF64 beyond 4 GiB) at 48 kHz; gaps become silence of their length.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: soundfile.SoundFile | None = None
        self._channels = 0
        self._gaps: list[tuple[float, float]] = []
        if not path.parent.is_dir():
            raise InputError(f"--wav: there is no directory {path.parent}", remedy="make it first")
        if path.exists() and not path.is_file():
            raise InputError(f"--wav: {path} is not a file", remedy="give the name of a file")

    def write(self, block: AudioBlock) -> None:
        """Write a block."""
        channels = block.samples.shape[1]
        file = self._file or self._open(channels)
        if block.gap_before:
            self._gaps.append((file.frames / LISTEN_LIMITS.rate, block.gap_before / LISTEN_LIMITS.rate))
            for _ in range(block.gap_before // LISTEN_LIMITS.rate):
                file.write(np.zeros((LISTEN_LIMITS.rate, self._channels), dtype=np.float32))
            file.write(np.zeros((block.gap_before % LISTEN_LIMITS.rate, self._channels), dtype=np.float32))
        samples = block.samples if channels == self._channels else _as_channels(block.samples, self._channels)
        file.write(samples)

    def close(self) -> dict[str, Any]:
        """Finish the file."""
        if self._file is None:
            return {}
        self._file.close()
        return {"wav": str(self._path), "gaps_at": [[round(at, 6), round(of, 6)] for at, of in self._gaps]}

    def _open(self, channels: int) -> soundfile.SoundFile:
        try:
            self._file = soundfile.SoundFile(
                self._path, "w", LISTEN_LIMITS.rate, channels, subtype="PCM_24", format="RF64"
            )
        except (soundfile.SoundFileError, OSError) as error:
            raise InputError(f"--wav: {self._path} cannot be written: {error}") from error
        for command in (_AUTO_DOWNGRADE, _UPDATE_HEADER):
            soundfile._snd.sf_command(self._file._file, command, soundfile._ffi.NULL, 1)
        self._channels = channels
        return self._file


class SpeakerOutput:
    """PortAudio; what it asks for and is not there is silence, and counted.

    Raises:
        CaptureError: PortAudio or the device is missing.
    """

    def __init__(self, device: str | None) -> None:
        try:
            import sounddevice
        except OSError as error:
            raise CaptureError(
                f"--play needs PortAudio, which is missing ({error})", remedy="apt-get install libportaudio2"
            ) from error
        self._sounddevice = sounddevice
        self._device = device
        self._stream: Any = None
        self._queue: collections.deque[Float32] = collections.deque()
        self._rest: Float32 = np.empty((0, 2), dtype=np.float32)
        self._underruns = 0
        self._dropped = 0
        if device is not None or not any(
            entry["max_output_channels"] for entry in sounddevice.query_devices()
        ):
            self._check(device)

    def write(self, block: AudioBlock) -> None:
        """Queue a block; the oldest is dropped when the device is far behind."""
        if self._stream is None:
            self._start()
        self._queue.append(_as_channels(block.samples, 2))
        while len(self._queue) > LISTEN_LIMITS.play_blocks:
            self._queue.popleft()
            self._dropped += 1

    def close(self) -> dict[str, Any]:
        """Stop the device."""
        if self._stream is not None:
            self._stream.close(ignore_errors=True)
        return {"underruns": self._underruns, "dropped": self._dropped}

    def _check(self, device: str | None) -> None:
        try:
            self._sounddevice.check_output_settings(device, 2, "float32", samplerate=LISTEN_LIMITS.rate)
        except (self._sounddevice.PortAudioError, ValueError) as error:
            raise CaptureError(
                f"--play: no sound device takes 48 kHz stereo ({error})",
                remedy="name one with --device, or record with --wav",
            ) from error

    def _start(self) -> None:
        try:
            self._stream = self._sounddevice.OutputStream(
                device=self._device,
                channels=2,
                samplerate=LISTEN_LIMITS.rate,
                dtype="float32",
                callback=self._fill,
            )
            self._stream.start()
        except (self._sounddevice.PortAudioError, ValueError) as error:
            raise CaptureError(f"--play: the sound device does not open: {error}") from error

    def _fill(self, out: Float32, frames: int, _times: Any, _status: Any) -> None:
        done = 0
        while done < frames:
            if not len(self._rest):
                try:
                    self._rest = self._queue.popleft()
                except IndexError:
                    out[done:] = 0.0
                    self._underruns += 1
                    return
            taken = min(frames - done, len(self._rest))
            out[done : done + taken] = self._rest[:taken]
            self._rest = self._rest[taken:]
            done += taken


def _as_channels(samples: Float32, channels: int) -> Float32:
    """Mono to both sides, stereo to its mean."""
    if samples.shape[1] == channels:
        return samples
    if channels == 1:
        return np.asarray(samples.mean(axis=1, keepdims=True), dtype=np.float32)
    return np.repeat(samples[:, :1], channels, axis=1)
