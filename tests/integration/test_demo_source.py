"""The demo's choice of source against real PortAudio: with a sound server, and with a broken sound library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo.sources import Wanted, assign, probe_device
from support.pulse import pulse_rig

DEPLOY = Path(__file__).parents[2] / "deploy"


def probed(environment: dict[str, str]) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "demo.device_probe", "2"],
        env={**environment, "PYTHONPATH": str(DEPLOY)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_device_that_two_racks_can_share_is_found_by_opening_it_twice(tmp_path: Path) -> None:
    with pulse_rig(tmp_path) as rig:
        assert probed(rig.environment) == {"delivering": 2, "device": "default", "reason": ""}


async def test_a_sound_library_that_aborts_means_the_programme_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "asoundrc"
    empty.write_text("")
    monkeypatch.setenv(
        "ALSA_CONFIG_PATH", str(empty)
    )  # libasound has no defaults then, and PortAudio asserts
    result = await probe_device(2, tmp_path / "log")
    assert result.delivering == 0
    assert "could not be tried" in result.reason
    chosen = assign(Wanted.AUTO, ("a", "b"), result, tmp_path / "p.wav")
    assert {source.kind for source in chosen.values()} == {Wanted.PROGRAMME}
