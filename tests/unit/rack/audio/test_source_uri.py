"""The grammar of --source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.errors import ConfigError
from stagebox_rack.audio.source_uri import (
    DeviceSource,
    FileSource,
    ToneSource,
    parse_source,
    parse_sources,
)
from stagebox_rack.limits import LIMITS


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("device:default", DeviceSource("main", "default")),
        ("device:hw:1,0", DeviceSource("main", "hw:1,0")),
        ("pa=device:Scarlett 2i2?channels=2&rate=96000", DeviceSource("pa", "Scarlett 2i2", 2, 96000, "f32")),
        ("device:odd%3Fname?format=s16", DeviceSource("main", "odd?name", None, None, "s16")),
        ("file:/srv/a b.wav", FileSource("main", "/srv/a b.wav")),
        ("file:/srv/x=y.wav?loop=1", FileSource("main", "/srv/x=y.wav", loop=True)),
        ("file:/srv/a.wav?loop=0", FileSource("main", "/srv/a.wav", loop=False)),
        ("tone:997@-23", ToneSource("main", 997.0, -23.0)),
        ("ref=tone:0.5@0?channels=1&rate=44100", ToneSource("ref", 0.5, 0.0, 1, 44100)),
    ],
)
def test_a_source_text_says_what_is_captured(text: str, spec: object) -> None:
    assert parse_source(text) == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a source"),
        ("default", "not a source"),
        ("mic:1", "unknown scheme 'mic'"),
        ("device:", "names no device"),
        ("file:", "names no file"),
        ("file:/a.wav?loop=yes", "loop=yes"),
        ("file:/a.wav?speed=2", "the option 'speed=2'"),
        ("file:/a.wav?loop=1&loop=1", "says loop twice"),
        ("file:/a%00.wav", "NUL"),
        ("tone:997", "is not a tone"),
        ("tone:abc@-23", "the frequency 'abc'"),
        ("tone:1e3@-23", "the frequency '1e3'"),
        ("tone:997@loud", "the level 'loud'"),
        ("tone:997@1", "1 dBFS"),
        ("tone:24000@-23", "24000 Hz"),
        ("tone:0@-23", "0 Hz"),
        ("tone:997@-23?rate=12345", "rate=12345"),
        ("device:x?channels=65", "channels=65"),
        ("device:x?channels=0", "channels=0"),
        ("device:x?format=s20", "format=s20"),
        ("device:x?latency=4", "use 5 to 500"),
        ("device:x?latency=501", "use 5 to 500"),
        ("Main=tone:997@-23", "'Main' is not a legal source name"),
        ("=tone:997@-23", "not a legal source name"),
        ("-a=file:/x", "not a legal source name"),
    ],
)
def test_a_wrong_source_is_refused_naming_the_setting_and_the_fault(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(text)
    assert "--source" in caught.value.message
    assert says in caught.value.message
    assert caught.value.remedy


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two sources are named 'main'"):
        parse_sources(["tone:997@-23", "tone:440@-20"])


def test_more_sources_than_a_rack_takes_are_refused() -> None:
    texts = [f"s{n}=tone:997@-23" for n in range(LIMITS.audio_sources + 1)]
    assert len(parse_sources(texts[:-1])) == LIMITS.audio_sources
    with pytest.raises(ConfigError, match="at most"):
        parse_sources(texts)


@given(st.text(max_size=80))
def test_no_text_does_worse_than_a_config_error(text: str) -> None:
    try:
        spec = parse_source(text)
    except ConfigError as error:
        assert "--source" in error.message
    else:
        assert isinstance(spec, DeviceSource | FileSource | ToneSource)


def test_an_overlong_text_is_refused_without_being_repeated_in_full() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source("file:" + "a" * LIMITS.audio_source_spec_chars)
    assert len(caught.value.message) < 200
