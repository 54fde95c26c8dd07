"""The demo as a user runs it: as a process, with the real mixer, racks and commands below it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stagebox.cipher_policy import CIPHER_SUITE

DEPLOY = Path(__file__).parents[2] / "deploy"
RACKS = ("stage-left", "stage-right")
TIMEOUT = 120.0


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo so that everything it makes, processes too, carries ``directory`` in its name."""
    environment = {**os.environ, "TMPDIR": str(directory), "PYTHONPATH": str(DEPLOY), "NO_COLOR": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "demo", "--source", "programme", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that is over when the block is, whatever the test did."""
    with start(directory, *arguments) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def processes_of(directory: Path) -> dict[int, str]:
    """Command lines of all processes that name ``directory`` or were started with it in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            line, variables = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
            if line and os.fsencode(directory) in line + variables:
                found[int(entry.name)] = line.replace(b"\0", b" ").decode("utf-8", "replace")
    return found


def until_no_process_is_left(directory: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while left := processes_of(directory):
        assert time.monotonic() < deadline, f"processes left: {left}"
        time.sleep(0.05)


def until_it_says(demo: subprocess.Popen[str], text: str) -> None:
    assert demo.stdout is not None
    said = []
    for line in demo.stdout:
        said.append(line)
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}: {said} {demo.communicate()[1]}")


def test_unattended_it_proves_that_nothing_was_lost(tmp_path: Path) -> None:
    with running(tmp_path, "--seconds", "4", "--json") as demo:
        out, err = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 0, out + err
    figures = json.loads(out.splitlines()[-1])
    assert figures["racks"] == 2
    # The racks run at least from both first frames on: 20 meter frames and 50 Opus packets a second each.
    for kind, rate in (("meter", 20), ("audio", 50)):
        live = figures[kind]
        assert live["published"] == live["received"] == live["verified"]
        assert live["published"] > 2 * 4 * rate * 0.9
        assert live["published"] == sum(figures["by_rack"][name][kind]["published"] for name in RACKS)
    wal = figures["wal"]
    assert wal["records"] == wal["committed"] > figures["meter"]["published"]
    assert (wal["lost"], wal["verified"]) == (0, True)
    assert wal["segments"] >= 2, "each rack seals its journal when it stops"
    assert figures["transport"] == {"tls": "TLSv1.3", "cipher": CIPHER_SUITE, "client_certificate": True}
    assert 0 < figures["startup_ms"] < 30_000
    assert 0 < figures["enroll_to_first_frame_ms"] < 30_000
    assert figures["source"] == dict.fromkeys(RACKS, "rendered programme, looped")
    assert "Nothing was lost and everything verified." in err
    assert not processes_of(tmp_path)
    assert not list(tmp_path.iterdir()), "keys and journals of a good run are removed"


def test_ctrl_c_ends_it_with_the_same_account_in_words(tmp_path: Path) -> None:
    with running(tmp_path) as demo:
        until_it_says(demo, "stage-right: peak")
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 0, out + err
    assert "2 racks ran for" in out
    assert "0 lost" in out
    assert f"TLSv1.3 {CIPHER_SUITE} with a client certificate" in out
    assert "\x1b" not in out, "no terminal, no escape sequences"
    assert err == ""
    assert not processes_of(tmp_path)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as demo:
        until_it_says(demo, "mixer ready in")
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 130
    assert "interrupted before both racks were up" in err
    assert "Traceback" not in err
    assert not processes_of(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_rack_that_dies_fails_the_demo_and_its_log_is_shown(tmp_path: Path) -> None:
    with running(tmp_path, "--seconds", "60", "--json") as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if "stage-right: peak" in line:
                break
        (rack,) = (
            pid
            for pid, line in processes_of(tmp_path).items()
            if "rack run" in line and line.rstrip().endswith("stage-right")
        )
        os.kill(rack, signal.SIGKILL)
        out, err = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 1
    assert out == ""
    assert "error: the rack stage-right ended by itself with code -9" in err
    assert "lines of stage-right.log:" in err
    assert "rack_ready" in err
    assert not processes_of(tmp_path)
    (kept,) = tmp_path.iterdir()
    assert str(kept) in err


def test_a_demo_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    with running(tmp_path) as demo:
        until_it_says(demo, "stage-left enrolled")
        assert any("nats-server" in line for line in processes_of(tmp_path).values())
        demo.kill()
        demo.wait(TIMEOUT)
        until_no_process_is_left(tmp_path, 30)
