"""`stagebox wasm` with the compilers that authors have, keys on disk and the rack's own host."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

from stagebox.modules.manifest import Language
from stagebox_rack.desk.audio_input import MadeSignal
from stagebox_rack.desk.record_input import MeasuredAudio
from support.module_builds import assemblyscript
from support.modules import gain_wat, unsigned_module

RUN_S = 120.0


def stagebox(*args: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command as a person would."""
    done = subprocess.run(
        [sys.executable, "-m", "stagebox.cli", *args],
        cwd=cwd, capture_output=True, text=True, timeout=RUN_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


def shown(*args: str, cwd: Path, code: int = 0) -> dict[str, Any]:
    """Run it with --json and return what it says."""
    found: dict[str, Any] = json.loads(stagebox(*args, "--json", cwd=cwd, code=code).stdout)
    return found


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vendor")
    stagebox(
        "keys", "gen-vendor", "--owner", "acme", "--out", "acme", "--module", "acme-*", "--no-passphrase",
        cwd=directory,
    )  # fmt: skip
    return directory / "acme"


def starter(tmp_path: Path, language: Language, kind: str) -> Path:
    """A built starter module; returns its directory."""
    stagebox("wasm", "new", "acme-one", "--lang", language.value, "--kind", kind, cwd=tmp_path)
    directory = tmp_path / "acme-one"
    if language is Language.ASSEMBLYSCRIPT:
        (directory / "node_modules").symlink_to(assemblyscript() / "node_modules")
    built = shown("wasm", "build", cwd=directory)
    assert built["memory"]["max_pages"] <= 32
    return directory


@pytest.mark.parametrize("language", list(Language))
def test_an_audio_starter_builds_runs_signs_and_verifies_as_it_is(
    language: Language, tmp_path: Path, vendor: Path
) -> None:
    directory = starter(tmp_path, language, "audio")
    found = shown("wasm", "test", "acme-one.wasm", cwd=directory)
    assert found["clean"] is True
    assert found["given"] == 500
    assert found["time_us"]["share"] < 0.5
    assert (
        0 < found["fuel"]["least"] <= found["fuel"]["median"] <= found["fuel"]["most"] < found["fuel"]["of"]
    )
    assert found["levels"]["out"] == found["levels"]["in"]
    assert [line["text"] for line in found["log"]["last"]] in (["acme-one is ready"], ["ready"])
    stagebox("wasm", "sign", "acme-one.wasm", "--key", str(vendor / "vendor.key"), cwd=directory)
    root = str(vendor / "vendor.toml")
    verified = shown("wasm", "verify", "acme-one.signed.wasm", "--vendor", root, cwd=directory)
    assert (verified["vendor"]["name"], verified["vendor"]["capabilities"]) == ("acme-one", ["audio", "log"])
    assert shown("wasm", "inspect", "acme-one.signed.wasm", cwd=directory)["vendor"]["signer"] == "acme"
    assert (
        shown("wasm", "test", "acme-one.signed.wasm", cwd=directory)["origin"] == "signed by acme, unverified"
    )


@pytest.mark.parametrize("language", list(Language))
def test_a_telemetry_starter_says_something_about_meter_frames(language: Language, tmp_path: Path) -> None:
    directory = starter(tmp_path, language, "telemetry")
    found = shown("wasm", "test", "acme-one.wasm", cwd=directory)
    assert found["clean"] is True
    assert "measured here" in found["input"]
    assert found["given"] == 1_200
    assert (found["records"]["count"], found["records"]["per_s"]) == (60, 1.0)
    assert 0 < found["time_us"]["mean"] <= found["time_us"]["most"]
    [out] = found["records"]["outs"]
    last = found["records"]["last"][-1]["data"]
    if language is Language.WAT:
        assert (out, last) == ("count", {"frames": 1_200})
    else:
        assert out == "loudest"
        assert last["peak_dbfs"] == pytest.approx(-12.0, abs=0.5)
    assert found["fuel"]["mean"] > 0


def test_a_gain_is_heard_in_the_file_that_comes_out(tmp_path: Path) -> None:
    directory = starter(tmp_path, Language.C, "audio")
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (48_000, 2)).astype(np.float32)
    soundfile.write(directory / "in.wav", samples, 48_000, subtype="FLOAT")
    found = shown(
        "wasm", "test", "acme-one.wasm", "--wav", "in.wav", "--out", "out.wav", "--param", "gain=-6",
        cwd=directory,
    )  # fmt: skip
    assert found["params"] == {"gain": -6.0}
    out, rate = soundfile.read(directory / "out.wav", dtype="float32", always_2d=True)
    assert (rate, out.shape) == (48_000, samples.shape)
    # The first block fades in, as in a rack.
    assert np.allclose(out[1_920:], samples[1_920:] * 10 ** (-6 / 20), atol=1e-5)
    fell = found["levels"]["in"]["rms_dbfs"][0] - found["levels"]["out"]["rms_dbfs"][0]
    assert fell == pytest.approx(6.0, abs=0.3)
    again = stagebox("wasm", "test", "acme-one.wasm", "--out", "out.wav", cwd=directory, code=64)
    assert "is not overwritten" in again.stderr


def test_an_exported_journal_is_what_a_telemetry_module_hears(tmp_path: Path) -> None:
    directory = starter(tmp_path, Language.WAT, "telemetry")
    rows = [
        {
            "seq": number,
            "kind": item.kind.value,
            "time_ns": number * 50_000_000,
            "subject": item.subject,
            "data": base64.b64encode(item.data).decode(),
        }
        for number, item in enumerate(MeasuredAudio(MadeSignal(5.0)).records(), start=1)
    ]
    (directory / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = shown("wasm", "test", "acme-one.wasm", "--records", "r.jsonl", cwd=directory)
    assert (found["given"], found["records"]["count"]) == (100, 5)
    text = stagebox("wasm", "test", "acme-one.wasm", "--records", "r.jsonl", cwd=directory).stdout
    assert 'count  {"frames": 100}' in text
    assert "info: ready" in text


def wat_module(tmp_path: Path, process: str = "") -> Path:
    """Put a module ``m.wasm`` into ``tmp_path``; returns that."""
    (tmp_path / "m.wasm").write_bytes(unsigned_module(gain_wat(process=process)))
    return tmp_path


def test_a_module_that_runs_for_ever_is_stopped_and_the_run_is_not_clean(tmp_path: Path) -> None:
    found = shown("wasm", "test", "m.wasm", cwd=wat_module(tmp_path, process="(loop $l (br $l))"), code=1)
    assert (found["state"], found["over_budget"]) == ("stopped", 3)
    assert {one["code"] for one in found["troubles"]["first"]} >= {"out_of_fuel"}
    assert found["levels"]["out"] == found["levels"]["in"]


def test_a_trap_is_a_fault_with_its_reason(tmp_path: Path) -> None:
    done = stagebox("wasm", "test", "m.wasm", cwd=wat_module(tmp_path, process="(unreachable)"), code=1)
    assert "FAULT  unreachable" in done.stdout
    assert "NOT CLEAN" in done.stdout


def test_a_smaller_budget_is_held(tmp_path: Path) -> None:
    found = shown("wasm", "test", "m.wasm", "--fuel", "100", cwd=wat_module(tmp_path), code=1)
    assert found["over_budget"] == 3
    assert shown("wasm", "test", "m.wasm", "--fuel", "1000000", cwd=tmp_path)["fuel"]["of"] == 1_000_000


@pytest.mark.parametrize(
    ("args", "code", "complaint"),
    [
        (["--param", "gain"], 65, "--param 'gain' is not a name and a finite number"),
        (["--param", "gain=1", "--param", "gain=2"], 65, "--param gain is given twice"),
        (["--param", "level=1"], 65, "no parameter 'level'"),
        (["--param", "gain=9"], 65, "its range is"),
        (["--records", "r.jsonl"], 64, "takes audio, not records"),
        (["--wav", "absent.wav"], 65, "cannot read the sound file absent.wav: No such file or directory"),
        (["--wav", "."], 65, "cannot read the sound file .: Is a directory"),
        (["--wav", "m.wasm"], 65, "m.wasm is not a sound file"),
        (["--out", "absent/out.wav"], 74, "cannot write absent/out.wav: No such file or directory"),
        (["--fuel", "2000000000"], 77, "limit_not_allowed"),
    ],
)
def test_wrong_flags_give_one_clear_error(args: list[str], code: int, complaint: str, tmp_path: Path) -> None:
    done = stagebox("wasm", "test", "m.wasm", *args, cwd=wat_module(tmp_path), code=code)
    assert done.stdout == ""
    assert done.stderr.count("error:") == 1
    assert complaint in done.stderr


def test_verify_of_an_unsigned_or_altered_file_fails_with_its_code(tmp_path: Path, vendor: Path) -> None:
    root = str(vendor / "vendor.toml")
    wat_module(tmp_path)
    refused = stagebox("wasm", "verify", "m.wasm", "--vendor", root, cwd=tmp_path, code=77)
    assert "(code missing_signature)" in refused.stderr
    claim = ("--name", "acme-one", "--version", "1.0.0", "--capability", "audio")
    stagebox("wasm", "sign", "m.wasm", "--key", str(vendor / "vendor.key"), *claim, cwd=tmp_path)
    signed = tmp_path / "m.signed.wasm"
    stagebox("wasm", "verify", signed.name, "--vendor", root, cwd=tmp_path)
    data = bytearray(signed.read_bytes())
    data[100] ^= 1
    signed.write_bytes(data)
    refused = stagebox("wasm", "verify", signed.name, "--vendor", root, cwd=tmp_path, code=77)
    assert "(code wrong_digest)" in refused.stderr


@pytest.mark.parametrize(
    ("args", "code", "complaint"),
    [
        (["--name", "acme-one", "--version", "1.0.0"], 64, "give --name, --version and --capability"),
        (
            ["--name", "other", "--version", "1.0.0", "--capability", "audio"],
            65,
            "may not sign a module 'other'",
        ),
        (["--name", "acme-one", "--version", "1", "--capability", "audio"], 65, "not a semantic version"),
        (["--name", "acme-one", "--version", "1.0.0", "--capability", "video"], 2, "'--capability'"),
    ],
)
def test_what_cannot_be_signed_is_said_before_a_file_is_written(
    args: list[str], code: int, complaint: str, tmp_path: Path, vendor: Path
) -> None:
    wat_module(tmp_path)
    done = stagebox(
        "wasm", "sign", "m.wasm", "--key", str(vendor / "vendor.key"), *args, cwd=tmp_path, code=code
    )
    assert complaint in done.stderr
    assert not (tmp_path / "m.signed.wasm").exists()


@pytest.mark.parametrize(
    ("args", "code", "complaint"),
    [
        (["--key", "absent.key"], 66, "there is no key file absent.key"),
        (["--key", "acme"], 66, "there is no key file acme"),
        (["--key", "acme/vendor.key", "--out", "acme/vendor.key"], 65, "is a file that is read"),
        (["--key", "acme/vendor.key", "--out", "./m.wasm"], 65, "is a file that is read"),
        (["--key", "acme/vendor.key", "--out", "acme"], 65, "acme is a directory"),
    ],
)
def test_signing_never_overwrites_what_it_reads_and_misses_a_key_by_its_name(
    args: list[str], code: int, complaint: str, tmp_path: Path, vendor: Path
) -> None:
    wat_module(tmp_path)
    shutil.copytree(vendor, tmp_path / "acme")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    claim = ("--name", "acme-one", "--version", "1.0.0", "--capability", "audio")
    assert complaint in stagebox("wasm", "sign", "m.wasm", *claim, *args, cwd=tmp_path, code=code).stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_key_with_a_passphrase_signs_only_with_it(tmp_path: Path) -> None:
    wat_module(tmp_path)
    (tmp_path / "pass").write_text("correct horse\n")
    (tmp_path / "pass").chmod(0o600)
    opened = ("--passphrase-file", "pass")
    stagebox("keys", "gen-vendor", "--owner", "acme", "--out", "acme", *opened, cwd=tmp_path)
    claim = ("--key", "acme/vendor.key", "--name", "gain", "--version", "1.0.0", "--capability", "audio")
    refused = stagebox("wasm", "sign", "m.wasm", *claim, cwd=tmp_path, code=64)
    assert "there is no terminal to ask on" in refused.stderr
    stagebox("wasm", "sign", "m.wasm", *claim, *opened, cwd=tmp_path)
    stagebox("wasm", "verify", "m.signed.wasm", "--vendor", "acme/vendor.toml", cwd=tmp_path)


def test_sign_says_that_a_signature_ends_with_the_key_and_asks_no_passphrase_for_one_that_would_not(
    tmp_path: Path,
) -> None:
    wat_module(tmp_path)
    (tmp_path / "pass").write_text("correct horse\n")
    (tmp_path / "pass").chmod(0o600)
    opened = ("--passphrase-file", "pass")
    stagebox("keys", "gen-vendor", "--owner", "acme", "--out", "acme", "--days", "30", *opened, cwd=tmp_path)
    [end] = re.findall(r"^not_after = (\S{19})Z$", (tmp_path / "acme" / "vendor.toml").read_text(), re.M)
    claim = ("--key", "acme/vendor.key", "--name", "gain", "--version", "1.0.0", "--capability", "audio")
    sign = ("wasm", "sign", "m.wasm", *claim)
    refused = stagebox(*sign, "--days", "31", cwd=tmp_path, code=65)
    assert f"which ends {end}" in refused.stderr
    assert "leave --days away" in refused.stderr
    assert not (tmp_path / "m.signed.wasm").exists()
    said = stagebox(*sign, *opened, cwd=tmp_path).stdout
    assert f"expires       {end}+00:00, when the vendor's key ends" in said
    found = shown(*sign, *opened, "--days", "29", cwd=tmp_path)
    assert found["expires"] < end
    assert found["expires_with_key"] is False


def test_ctrl_c_ends_a_run_with_130_and_leaves_no_process_and_no_half_file(tmp_path: Path) -> None:
    # An hour of audio, so that it is still running when it is interrupted.
    wat_module(tmp_path)
    long = tmp_path / "long.wav"
    with soundfile.SoundFile(str(long), "w", 48_000, 1, "PCM_16") as file:
        for _ in range(600):
            file.write(np.zeros((6 * 48_000, 1), np.int16))
    before = set(_descendants())
    with subprocess.Popen(
        [
            sys.executable, "-m", "stagebox.cli",
            "wasm", "test", "m.wasm", "--wav", "long.wav", "--out", "out.wav",
        ],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        host = _wait_for_host(process)
        # As a terminal does it: the whole foreground group is told.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")
    psutil.wait_procs([host], timeout=5)
    assert not host.is_running()
    assert set(_descendants()) == before
    assert not (tmp_path / "out.wav").exists()


def _wait_for_host(process: subprocess.Popen[str]) -> psutil.Process:
    """Return the host process once it is working."""
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            if _runs(child, ("hosting.child",)) and child.cpu_times().user > 0.05:
                return child
        os.sched_yield()
    raise AssertionError("the command ended before its host ran")


def _runs(process: psutil.Process, words: Sequence[str]) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return all(word in line for word in words)


def _descendants() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)]
