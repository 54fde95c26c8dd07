"""``stagebox listen``, ``meters`` and ``rack test-source`` as processes of their own, with a real mixer and rack."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stagebox.identity import Role
from support.cluster import Cluster, RunningMixer, running_mixer
from support.racks import running_rack
from support.terminal import run, stagebox

RATE = 48_000


@pytest.fixture
async def mixer(cluster: Cluster, tmp_path: Path) -> AsyncIterator[RunningMixer]:
    async with running_mixer(cluster, tmp_path / "data") as running:
        await running.enroll(tmp_path / "rack", "stage-left")
        async with running_rack(tmp_path / "rack"):
            yield running


def who(mixer: RunningMixer, *, api: bool = True) -> list[str]:
    options = ["--server", mixer.snake, "--identity", str(mixer.cluster.client(Role.VIEWER))]
    return [*options, "--mixer", mixer.https] if api else options


async def test_what_is_heard_is_the_racks_signal_and_what_is_printed_is_what_is_in_the_file(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    file = tmp_path / "heard.wav"
    code, out, err = await run(
        "listen", "stage-left", "--wav", str(file), "--seconds", "2", "--json", *who(mixer)
    )
    assert code == 0, err
    said = json.loads(out.splitlines()[-1])
    samples, rate = soundfile.read(file, dtype="float32")
    assert rate == RATE
    assert len(samples) == said["frames"] >= 2 * RATE
    lost = said["packets"][
        "lost"
    ]  # a packet may be late on a busy machine: then it is said, and no other sample is
    assert lost <= 5
    assert said["concealed_frames"] == lost * RATE // 50
    level = 20 * np.log10(np.sqrt(2 * np.mean(samples[RATE // 2 : 3 * RATE // 2] ** 2, axis=0)))
    assert level == pytest.approx([-23.0, -23.0], abs=0.2)


async def test_ctrl_c_leaves_a_whole_file_and_an_account(mixer: RunningMixer, tmp_path: Path) -> None:
    file = tmp_path / "heard.wav"
    async with stagebox("listen", "stage-left", "--wav", str(file), *who(mixer)) as process:
        async with asyncio.timeout(20):
            while not file.exists() or file.stat().st_size < 100_000:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    assert process.returncode == 130
    assert b"heard " in out + err
    assert b"Traceback" not in out + err
    assert soundfile.info(file).frames > RATE // 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("stage-left", "--bus", "foh"), 65, "no monitor bus 'foh'"),
        (("stage-right",), 65, "no rack 'stage-right'"),
        (("stage-left", "--latency", "1"), 64, "5 to 2000 ms"),
        (("Stage Left",), 65, "name"),
        (("stage-left", "--wav", "/nowhere/at/all.wav"), 65, "/nowhere/at"),
        (("stage-left", "--bus", "../x"), 65, "name"),
    ],
)
async def test_what_cannot_be_heard_is_one_clear_error(
    mixer: RunningMixer, arguments: tuple[str, ...], code: int, says: str
) -> None:
    got, out, err = await run("listen", *arguments, *who(mixer))
    assert says in err
    assert "Traceback" not in err
    assert not out.strip()
    assert got == code


async def test_the_bridge_shows_once_or_tells_programs_each_second(mixer: RunningMixer) -> None:
    code, out, err = await run("meters", "--once", *who(mixer, api=False))
    assert code == 0, err
    assert "stage-left" in out
    assert "−23.0 pk" in out
    async with stagebox("meters", "stage-left", "--json", *who(mixer, api=False)) as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            lines = [json.loads(await process.stdout.readline()) for _ in range(3)]
            process.send_signal(signal.SIGINT)
            _, err_bytes = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err_bytes
    assert "stage-left" in json.dumps(lines[-1])


async def test_a_bridge_that_hears_nobody_says_so(cluster: Cluster, tmp_path: Path) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        code, out, err = await run("meters", "--once", *who(mixer, api=False))
    assert code == 69
    assert "nothing was heard of any rack" in err
    assert not out


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("device:no-such-device", "no-such-device"),
        ("file:{bad}", "bad.wav"),
        ("file:{short}", "short.flac"),
        ("tone:997@-20?rate=12345", "rate"),
        ("tone:997@-20?channels=65", "channels"),
    ],
)
async def test_a_source_that_cannot_be_captured_is_an_error_and_never_silence(
    tmp_path: Path, source: str, says: str
) -> None:
    bad, short = tmp_path / "bad.wav", tmp_path / "short.flac"
    bad.write_bytes(b"RIFF\x00\x00\x00\x00WAVEjunk" * 20)
    signal_ = np.random.default_rng(1).uniform(-0.5, 0.5, RATE)
    soundfile.write(short, signal_, RATE)
    short.write_bytes(short.read_bytes()[:20_000])
    code, out, err = await run("rack", "test-source", source.format(bad=bad, short=short), "--seconds", "1")
    assert code not in (0, None)
    assert says in out + err
    assert "nothing was lost" not in out
    assert "Traceback" not in err


async def test_two_sources_of_one_name_are_refused() -> None:
    code, _, err = await run("rack", "test-source", "tone:997@-20", "tone:440@-20")
    assert code == 64
    assert "main" in err
