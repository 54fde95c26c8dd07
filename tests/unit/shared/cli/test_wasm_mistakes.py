"""What a vendor gets wrong at the first try: one error that names it, and what to do about it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stagebox.cli import host
from stagebox.modules.limits import LIMITS as FORMAT
from support.modules import unsigned_module

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with modules of both kinds, a vendor, and files that are none of these."""
    directory = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for name, kind in (("gain", "audio"), ("watch", "telemetry")):
            assert host.run(["wasm", "new", name, "--lang", "wat", "--kind", kind]) == 0
            assert host.run(["wasm", "build", name]) == 0
        assert host.run(["keys", "gen-vendor", "--owner", "acme", "--out", "acme", "--no-passphrase"]) == 0
    (directory / "huge.wasm").write_bytes(bytes(FORMAT.max_module_bytes + 1))
    (directory / "m.wasm").write_bytes(unsigned_module())
    soundfile.write(directory / "slow.wav", np.zeros((10, 1)), 8_000)
    (directory / "empty.jsonl").write_bytes(b"")
    return directory


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")


@pytest.mark.parametrize(
    ("line", "code", "said", "remedy"),
    [
        ("build gain/gain.wat", 65, "gain/gain.wat is a file", "name gain"),
        ("build gain/module.toml", 65, "gain/module.toml is a file", "name gain"),
        ("build nowhere", 65, "there is no nowhere/module.toml", "stagebox wasm new"),
        ("test gain", 65, "gain: Is a directory", "a .wasm file: `stagebox wasm build` makes one"),
        ("test absent.wasm", 65, "absent.wasm: No such file", "`stagebox wasm build` makes one"),
        ("test huge.wasm", 65, "larger than 4194304 bytes", "`stagebox wasm build` makes one"),
        ("test gain/gain.wat", 77, "does not begin as a Wasm module", "give the built .wasm file"),
        ("test gain/gain.wasm --wav slow.wav", 65, "a sample rate of 8000 Hz", "convert it"),
        ("test gain/gain.wasm --wav m.wasm", 65, "not a sound file", "give a WAV or FLAC file"),
        ("test gain/gain.wasm --wav gain", 65, "gain: Is a directory", "give a WAV or FLAC file"),
        ("test watch/watch.wasm --records absent", 65, "cannot read absent", "rack wal export"),
        ("test watch/watch.wasm --records empty.jsonl", 65, "holds no meter frame", "rack wal export"),
        ("inspect gain", 65, "gain: Is a directory", "`stagebox wasm build` makes one"),
        ("verify m.wasm --vendor acme", 65, "acme: Is a directory", "name the vendor.toml"),
        ("verify m.wasm --vendor acme/vendor.key", 65, "is not TOML", "name the vendor.toml"),
        ("verify m.wasm --vendor gain/module.toml", 65, "unknown key", "name the vendor.toml"),
        ("verify m.wasm --vendor m.wasm", 65, "not UTF-8 text", "name the vendor.toml"),
        ("verify m.wasm --vendor acme/vendor.toml --cluster venue", 64, "contradict", "give --vendor"),
        ("verify m.wasm --cluster-key acme/vendor.toml", 64, "need each other", "--cluster NAME"),
        ("sign gain/gain.wasm --key acme", 66, "there is no key file acme", "give acme/vendor.key"),
        ("sign gain/gain.wasm --key absent", 66, "no key file absent", "stagebox keys gen-vendor"),
        ("sign gain/gain.wasm --key acme/vendor.toml", 66, "signs nothing", "give acme/vendor.key"),
        ("sign gain --key acme/vendor.key", 65, "gain: Is a directory", "`stagebox wasm build` makes one"),
    ],
)
def test_a_mistake_is_one_error_with_a_remedy(
    here: None, line: str, code: int, said: str, remedy: str, capsys: Capture
) -> None:
    before = sorted(Path().rglob("*"))
    assert host.run(["wasm", *line.split()]) == code
    out, err = capsys.readouterr()
    complaint, advice = err.splitlines()
    assert out == ""
    assert complaint.startswith("error: ")
    assert said in complaint
    assert advice.startswith("  try: ")
    assert remedy in advice
    assert sorted(Path().rglob("*")) == before
