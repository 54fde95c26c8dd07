"""What stops a rack at its start: one clear line, the documented exit code, and nothing wiped or replaced."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demo.throwaway import ThrowawayCluster
from stagebox import cbor, envelope, passport
from stagebox.identity import machine_id
from stagebox.keyfiles import encode_public, load_ed25519, load_public, signing_key

STAGEBOX = Path(sys.executable).with_name("stagebox")
RACK = "stage-left"


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a cluster and one enrolled rack's state; the mixer is gone again."""
    directory = tmp_path_factory.mktemp("enrolled")
    asyncio.run(_enroll(directory))
    return directory


async def _enroll(directory: Path) -> None:
    async with ThrowawayCluster(directory) as cluster:
        await cluster.make_keys()
        mixer = await cluster.start_mixer()
        await cluster.enroll(mixer, RACK, await cluster.make_ticket(mixer, RACK))


@pytest.fixture
def state(enrolled: Path, tmp_path: Path) -> Path:
    """A rack's state of one's own to break."""
    return Path(shutil.copytree(enrolled / RACK, tmp_path / "state"))


def run_rack(state: Path, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STAGEBOX_")}
    return subprocess.run(
        [STAGEBOX, "rack", "run", "--state-dir", state, "--source", "tone:997@-23", *options],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one error line; everything else on standard error is the log."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_a_passport_with_a_flipped_bit_stops_the_rack_and_is_left_alone(state: Path) -> None:
    flux = state / "state.flux"
    data = bytearray(flux.read_bytes())
    data[len(data) // 2] ^= 1
    flux.write_bytes(data)
    before = snapshot(state)
    done = run_rack(state)
    assert done.returncode == 78
    assert "passport" in refusal(done)
    assert snapshot(state) == before


def test_a_copied_disk_does_not_start_on_another_machine(state: Path) -> None:
    before = snapshot(state)
    done = run_rack(state, STAGEBOX_RACK_MACHINE_ID=str(machine_id() ^ 1))
    assert done.returncode == 78
    assert "belongs to another machine" in refusal(done)
    assert snapshot(state) == before


def test_a_passport_of_another_cluster_stops_the_rack(state: Path) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    (state / "cluster.pub").write_bytes(encode_public(other))
    done = run_rack(state)
    assert done.returncode == 78
    assert "not signed by the pinned cluster" in refusal(done)


def test_a_passport_of_an_unknown_version_stops_the_rack(enrolled: Path, state: Path) -> None:
    authority = signing_key(load_ed25519(enrolled / "cluster" / "mixer" / "authority.key", None))
    payload = passport.read(state / "state.flux", load_public(state / "cluster.pub")).encode()
    fields = cbor.decode(payload, max_bytes=1 << 16)
    newer = cbor.encode({**fields, "Version": 2})
    (state / "state.flux").write_bytes(envelope.seal(envelope.DOMAIN_PASSPORT, newer, authority))
    done = run_rack(state)
    assert done.returncode == 78
    assert "version 2" in refusal(done)


def test_a_rack_without_a_passport_says_how_to_enroll(tmp_path: Path) -> None:
    done = run_rack(tmp_path)
    assert done.returncode == 78
    assert "not enrolled" in refusal(done)
    assert "stagebox admin enroll" in done.stderr


def test_an_identity_key_that_others_can_read_stops_the_rack(state: Path) -> None:
    (state / "identity.key").chmod(0o644)
    done = run_rack(state)
    assert done.returncode == 66
    assert "readable by other users" in refusal(done)
    assert "chmod 600" in done.stderr


@pytest.fixture
def read_only(state: Path) -> Iterator[Path]:
    """The state on storage that takes no writes; root is not stopped by mode bits, so it gets a mount."""
    if os.geteuid() == 0:
        subprocess.run(["mount", "--bind", state, state], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", state], check=True)
        yield state
        subprocess.run(["umount", state], check=True)
    else:
        state.chmod(0o500)
        yield state
        state.chmod(0o700)


def test_a_state_directory_that_takes_no_writes_is_named_with_its_flag(read_only: Path) -> None:
    done = run_rack(read_only)
    assert done.returncode == 74
    assert str(read_only) in refusal(done)
    assert "--state-dir" in done.stderr


def write_wav(path: Path, rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(4 * rate))


def test_a_truncated_wav_is_refused_by_name(state: Path, tmp_path: Path) -> None:
    recording = tmp_path / "cut.wav"
    write_wav(recording, 48_000)
    recording.write_bytes(recording.read_bytes()[:50_000])
    done = run_rack(state, "--source", f"cut=file:{recording}")
    assert done.returncode == 65
    assert "cut.wav" in refusal(done)


def test_a_wav_of_an_odd_rate_is_refused_with_the_way_to_convert_it(state: Path, tmp_path: Path) -> None:
    recording = tmp_path / "odd.wav"
    write_wav(recording, 12_345)
    done = run_rack(state, "--source", f"odd=file:{recording}")
    assert done.returncode == 65
    assert "12345" in refusal(done)
    assert "48000" in done.stderr
