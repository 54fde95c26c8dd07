"""Loads PortAudio, lists its capture devices and finds one by name.

Rules: PortAudio is loaded only when a device source is used; a missing library or device is one clear
error that says what to install or what there is; a device is found by name or by its stable identity, because
indexes move when hardware is replugged.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from stagebox.errors import CaptureError, ConfigError
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio.device_identity import device_identity, without_index
from stagebox_rack.audio.source_uri import SETTING, DeviceSource
from stagebox_rack.limits import LIMITS

PACKAGE: Final = "libportaudio2"
DEFAULT_DEVICE: Final = "default"
PREFERRED_RATE: Final = 48_000


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A capture device as PortAudio sees it now. ``index`` is good until the next rescan."""

    index: int
    name: str
    host_api: str
    channels: int
    default_rate: int
    is_default: bool
    identity: str

    @property
    def spec(self) -> str:
        """How to name this device in a ``--source`` setting, so that it is found again when cards are renumbered."""
        stable = self.identity if self.identity.startswith(("usb:", "alsa:")) else self.name
        return f"device:{quote(stable, safe=' :/@,._-()')}"


class OpenStreams:
    """Counts this process's streams, because a PortAudio rescan would close every one of them.

    A rescan also renumbers the devices, so finding one and opening it belong in one ``with STREAMS:``.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.RLock()
        self._held: list[tuple[str, str]] = []

    def __enter__(self) -> None:
        """Keep other threads from rescanning, opening and closing."""
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        """Let them."""
        self._lock.release()

    @property
    def count(self) -> int:
        """How many streams are open."""
        return len(self._held)

    def opened(self, source: str, identity: str) -> None:
        """``source`` opened a stream of the device ``identity``."""
        with self:
            self._held.append((source, identity))

    def closed(self, source: str, identity: str) -> None:
        """That stream was closed."""
        with self:
            self._held.remove((source, identity))

    def holder(self, identity: str, but: str) -> str | None:
        """Another source than ``but`` that has the device open, if any."""
        return next((source for source, held in self._held if held == identity and source != but), None)

    def rescan_if_idle(self) -> bool:
        """Make PortAudio look for devices again, if no stream is open; says whether it did."""
        with self:
            if self._held:
                return False
            sounddevice = load_portaudio()
            sounddevice._terminate()
            sounddevice._initialize()
            return True


STREAMS: Final = OpenStreams()


@functools.cache
def load_portaudio() -> Any:
    """The ``sounddevice`` module, with PortAudio loaded and initialised.

    Raises:
        CaptureError: PortAudio is not installed or does not start.
    """
    try:
        return importlib.import_module("sounddevice")
    except OSError as error:
        raise CaptureError(
            f"PortAudio is missing ({error}): install the package {PACKAGE}",
            remedy=f"apt-get install {PACKAGE}",
        ) from error
    except Exception as error:  # sounddevice raises its own PortAudioError while it initialises
        raise CaptureError(
            f"PortAudio does not start: {error}",
            remedy=f"check the ALSA configuration, or reinstall the package {PACKAGE}",
        ) from error


def list_devices() -> tuple[InputDevice, ...]:
    """Every device that can capture.

    Raises:
        CaptureError: PortAudio is not installed or does not start.
    """
    sounddevice = load_portaudio()
    host_apis = sounddevice.query_hostapis()
    default = next((api["default_input_device"] for api in host_apis if api["default_input_device"] >= 0), -1)
    return tuple(
        InputDevice(
            index=index,
            name=str(device["name"]),
            host_api=str(host_apis[device["hostapi"]]["name"]),
            channels=int(device["max_input_channels"]),
            default_rate=round(device["default_samplerate"]),
            is_default=index == default,
            identity=device_identity(str(device["name"]), str(host_apis[device["hostapi"]]["name"])),
        )
        for index, device in enumerate(sounddevice.query_devices())
        if device["max_input_channels"] > 0
    )


def find_again(identity: str, spec: DeviceSource, devices: tuple[InputDevice, ...]) -> InputDevice:
    """The device that was opened before as ``identity``, wherever it is plugged in now.

    Raises:
        CaptureError: it is not there. Another one that took its place is not taken for it.
    """
    for device in devices:
        if device.identity == identity:
            return device
    raise CaptureError(
        f"{SETTING} {spec.name}=device:{spec.device}: there is no such capture device as {identity} now;"
        f" there are: {_names(devices)}",
        remedy="plug it in again; it is looked for until it is back",
    )


def find_device(spec: DeviceSource, devices: tuple[InputDevice, ...]) -> InputDevice:
    """The one of ``devices`` that ``spec`` names: by name or identity, else by a part of the name only one has.

    ``default`` is a device of that name if there is one, else the system's default capture device.

    Raises:
        CaptureError: there is none, or more than one; the message lists what there is.
    """
    wanted = spec.device
    exact = [device for device in devices if wanted in (device.name, device.identity)]
    if exact:
        return exact[0]
    named = [device for device in devices if without_index(device.name) == wanted]
    if len(named) == 1:
        return named[0]
    if wanted == DEFAULT_DEVICE:
        chosen = [device for device in devices if device.is_default] or list(devices[:1])
        if chosen:
            return chosen[0]
    partial = [device for device in devices if wanted.casefold() in device.name.casefold()]
    if len(partial) == 1:
        return partial[0]
    setting = f"{SETTING} {spec.name}=device:{wanted}"
    if partial:
        raise CaptureError(
            f"{setting} names more than one device: {_names(partial)}",
            remedy="give the whole name of one of them",
        )
    raise CaptureError(
        f"{setting}: there is no such capture device; there are: {_names(devices)}",
        remedy="give one of these names, or check that the interface is plugged in",
    )


def choose_rate(spec: DeviceSource, device: InputDevice, channels: int) -> int:
    """The rate to open ``device`` at: as set, else 48 kHz if the device takes it, else its own.

    PortAudio calls 44.1 kHz the default of every ALSA plug-in, so the default alone says little.
    """
    if spec.rate is not None:
        return spec.rate
    sounddevice = load_portaudio()
    try:
        sounddevice.check_input_settings(
            device.index, channels, sample_format(spec), samplerate=PREFERRED_RATE
        )
    except sounddevice.PortAudioError:
        return device.default_rate if device.default_rate in LIMITS.audio_rates else PREFERRED_RATE
    return PREFERRED_RATE


def sample_format(spec: DeviceSource) -> str:
    """What PortAudio is asked to deliver.

    ``s16`` exists because a float32 stream on an ALSA plug-in with a 16-bit slave silently drops blocks.
    """
    return {"s16": "int16", "s24": "int24", "s32": "int32", "f32": "float32"}[spec.format]


def stream_format(spec: DeviceSource, rate: int, channels: int) -> StreamFormat:
    """What a stream of ``spec`` puts into the ring."""
    dtype, bits = {
        "s16": (np.int16, 16), "s24": (np.int32, 24), "s32": (np.int32, 32), "f32": (np.float32, 32),
    }[spec.format]  # fmt: skip
    return StreamFormat(rate, channels, np.dtype(dtype), bits)


def accepted_rates(spec: DeviceSource, device: InputDevice, channels: int) -> tuple[int, ...]:
    """The rates at which the device says it would open, Hz."""
    sounddevice = load_portaudio()
    found = []
    for rate in LIMITS.audio_rates:
        with contextlib.suppress(sounddevice.PortAudioError, ValueError):
            sounddevice.check_input_settings(device.index, channels, sample_format(spec), samplerate=rate)
            found.append(rate)
    return tuple(found)


def choose_channels(spec: DeviceSource, device: InputDevice) -> int:
    """How many channels to open: as set, else the first two (or the one there is).

    Raises:
        ConfigError: more are asked for than the device has.
    """
    if spec.channels is None:
        return min(2, device.channels)
    if spec.channels > device.channels:
        raise ConfigError(
            f"{SETTING} {spec.name}: channels={spec.channels}, but {device.name!r} has {device.channels}",
            remedy=f"use channels={device.channels} or fewer",
        )
    return spec.channels


def _names(devices: tuple[InputDevice, ...] | list[InputDevice]) -> str:
    return ", ".join(repr(device.name) for device in devices) or "none at all"
