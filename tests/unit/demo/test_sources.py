from __future__ import annotations

from pathlib import Path

import pytest

from demo.errors import DemoError
from demo.sources import Probed, Wanted, assign
from stagebox_rack.audio.source_uri import DeviceSource, FileSource, parse_source

RACKS = ("stage-left", "stage-right")
NONE = Probed(0, "", "PortAudio is missing: install the package libportaudio2")
ONE = Probed(1, "USB Audio", "'USB Audio' is busy")
BOTH = Probed(2, "USB Audio", "")


@pytest.mark.parametrize(
    ("probed", "kinds"),
    [
        (NONE, (FileSource, FileSource)),
        (ONE, (DeviceSource, FileSource)),
        (BOTH, (DeviceSource, DeviceSource)),
    ],
)
def test_racks_capture_the_device_as_far_as_it_goes(probed: Probed, kinds: tuple[type, type]) -> None:
    chosen = assign(Wanted.AUTO, RACKS, probed, Path("/tmp/a directory/programme?.wav"))
    specs = [parse_source(chosen[name].spec) for name in RACKS]
    assert tuple(map(type, specs)) == kinds
    for spec in specs:
        if isinstance(spec, FileSource):
            assert spec.path == "/tmp/a directory/programme?.wav"
            assert spec.loop


def test_a_rendered_programme_is_never_called_captured_and_says_why() -> None:
    chosen = assign(Wanted.AUTO, RACKS, NONE, Path("/x.wav"))["stage-left"]
    assert "rendered" in chosen.label
    assert "captured" not in chosen.label
    assert "libportaudio2" in chosen.why


def test_a_device_that_was_asked_for_is_not_replaced() -> None:
    with pytest.raises(DemoError, match="1 of 2 racks: 'USB Audio' is busy"):
        assign(Wanted.DEVICE, RACKS, ONE, Path("/x.wav"))
