"""Parses the text of a ``--source`` setting into what is to be captured.

Grammar (``[]`` optional)::

    [NAME=]device:DEVICE[?channels=N&rate=HZ&format=s16|s24|s32|f32&latency=MS]
    [NAME=]file:PATH[?loop=1]
    [NAME=]tone:HZ@DBFS[?channels=N&rate=HZ]

Rules: pure, no I/O; a source that is not named is ``main``; every error names the setting, the text
and what would be accepted. ``%XX`` escapes are undone in DEVICE and PATH, so a ``?`` in a name is
written ``%3F``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NoReturn, get_args
from urllib.parse import unquote

from stagebox.errors import ConfigError, InputError
from stagebox.identity import check_name
from stagebox_rack.limits import LIMITS

SETTING = "--source"
DEFAULT_NAME = "main"
DEFAULT_RATE = 48_000
DEFAULT_CHANNELS = 2
GRAMMAR = "device:<name>, file:<path>[?loop=1] or tone:<Hz>@<dBFS>"

SampleFormat = Literal["s16", "s24", "s32", "f32"]

_NAMED = re.compile(r"(?P<name>[^=:?]*)=(?P<rest>[a-z]+:.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")


@dataclass(frozen=True)
class DeviceSource:
    """A PortAudio capture device, found by its name or stable identity (never by an index, which moves)."""

    name: str
    device: str
    channels: int | None = None
    rate: int | None = None
    format: SampleFormat = "f32"
    latency_ms: int = LIMITS.audio_device_latency_ms


@dataclass(frozen=True)
class FileSource:
    """A sound file played in real time, once or for ever."""

    name: str
    path: str
    loop: bool = False


@dataclass(frozen=True)
class ToneSource:
    """A sine of ``hz``, peak level ``dbfs``, the same in every channel: the one synthetic source."""

    name: str
    hz: float
    dbfs: float
    channels: int = DEFAULT_CHANNELS
    rate: int = DEFAULT_RATE


SourceSpec = DeviceSource | FileSource | ToneSource


def parse_source(text: str) -> SourceSpec:
    """The source that ``text`` names.

    Raises:
        ConfigError: the text is not of the grammar; the message names ``--source`` and the text.
    """
    if len(text) > LIMITS.audio_source_spec_chars:
        _refuse(text[:40] + "…", f"is longer than {LIMITS.audio_source_spec_chars} characters")
    named = _NAMED.fullmatch(text)
    name, rest = (named["name"], named["rest"]) if named else (DEFAULT_NAME, text)
    try:
        check_name("source", name)
    except InputError as error:
        raise ConfigError(f"{SETTING} {text!r}: {error.message}", remedy=error.remedy) from error
    scheme, colon, body = rest.partition(":")
    if not colon:
        _refuse(text, f"is not a source; use {GRAMMAR}")
    target, _, query = body.partition("?")
    if "\0" in unquote(target):
        _refuse(text, "contains a NUL character")
    if scheme == "device":
        return _device(text, name, target, query)
    if scheme == "file":
        return _file(text, name, target, query)
    if scheme == "tone":
        return _tone(text, name, target, query)
    return _refuse(text, f"has the unknown scheme {scheme!r}; use {GRAMMAR}")


def parse_sources(texts: Iterable[str]) -> tuple[SourceSpec, ...]:
    """All sources of a rack, each with its own name.

    Raises:
        ConfigError: one does not parse, two share a name, or there are too many.
    """
    specs = tuple(parse_source(text) for text in texts)
    if len(specs) > LIMITS.audio_sources:
        raise ConfigError(
            f"{SETTING} was given {len(specs)} times; a rack takes at most {LIMITS.audio_sources} sources",
            remedy="run the other sources on a second rack",
        )
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise ConfigError(
                f"{SETTING}: two sources are named {spec.name!r}",
                remedy=f"name each one, for example {SETTING} second=device:default",
            )
        seen.add(spec.name)
    return specs


def _device(text: str, name: str, target: str, query: str) -> DeviceSource:
    device = unquote(target)
    if not device:
        _refuse(text, "names no device; use device:default or a name from `stagebox rack devices`")
    options = _options(text, query, ("channels", "rate", "format", "latency"))
    format_ = options.get("format", "f32")
    known = next((known for known in get_args(SampleFormat) if known == format_), None)
    if known is None:
        _refuse(text, f"has format={format_}; use {', '.join(get_args(SampleFormat))}")
    channels = _channels(text, options["channels"]) if "channels" in options else None
    rate = _rate(text, options["rate"]) if "rate" in options else None
    latency = _latency(text, options["latency"]) if "latency" in options else LIMITS.audio_device_latency_ms
    return DeviceSource(name, device, channels, rate, known, latency)


def _file(text: str, name: str, target: str, query: str) -> FileSource:
    path = unquote(target)
    if not path:
        _refuse(text, "names no file; use file:<path>[?loop=1]")
    options = _options(text, query, ("loop",))
    loop = options.get("loop", "0")
    if loop not in ("0", "1"):
        _refuse(text, f"has loop={loop}; use loop=1 or loop=0")
    return FileSource(name, path, loop == "1")


def _tone(text: str, name: str, target: str, query: str) -> ToneSource:
    hz_text, at, dbfs_text = target.partition("@")
    if not at:
        _refuse(text, "is not a tone; use tone:<Hz>@<dBFS>, for example tone:997@-23")
    options = _options(text, query, ("channels", "rate"))
    channels = _channels(text, options["channels"]) if "channels" in options else DEFAULT_CHANNELS
    rate = _rate(text, options["rate"]) if "rate" in options else DEFAULT_RATE
    hz = _number(text, "frequency", hz_text, "Hz")
    dbfs = _number(text, "level", dbfs_text, "dBFS")
    if not LIMITS.audio_tone_min_hz <= hz < rate / 2:
        _refuse(text, f"has {hz:g} Hz; use {LIMITS.audio_tone_min_hz:g} Hz to below {rate / 2:g} Hz")
    if not LIMITS.audio_tone_min_dbfs <= dbfs <= LIMITS.audio_tone_max_dbfs:
        low, high = LIMITS.audio_tone_min_dbfs, LIMITS.audio_tone_max_dbfs
        _refuse(text, f"has {dbfs:g} dBFS; use {low:g} to {high:g} dBFS")
    return ToneSource(name, hz, dbfs, channels, rate)


def _options(text: str, query: str, allowed: tuple[str, ...]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in query.split("&") if query else []:
        key, equals, value = pair.partition("=")
        if key not in allowed or not equals:
            _refuse(text, f"has the option {pair!r}; use {' or '.join(f'{o}=…' for o in allowed)}")
        if key in options:
            _refuse(text, f"says {key} twice")
        options[key] = value
    return options


def _channels(text: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= LIMITS.audio_channels):
        _refuse(text, f"has channels={value}; use 1 to {LIMITS.audio_channels}")
    return int(value)


def _rate(text: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value) in LIMITS.audio_rates):
        _refuse(text, f"has rate={value}; use one of {', '.join(map(str, LIMITS.audio_rates))}")
    return int(value)


def _latency(text: str, value: str) -> int:
    low, high = LIMITS.audio_device_latency_min_ms, LIMITS.audio_device_latency_max_ms
    if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
        _refuse(text, f"has latency={value}; use {low} to {high} (ms)")
    return int(value)


def _number(text: str, what: str, value: str, unit: str) -> float:
    if not _NUMBER.fullmatch(value) or not math.isfinite(float(value)):
        _refuse(text, f"has the {what} {value!r}, which is not a number of {unit}")
    return float(value)


def _refuse(text: str, why: str) -> NoReturn:
    raise ConfigError(f"{SETTING} {text!r} {why}", remedy=f"sources are {GRAMMAR}")
