"""Capture without hardware: a private PulseAudio null sink, and ALSA's file plug-in, for PortAudio.

Nothing of the system's own sound configuration is read or changed: each rig lives in one directory and
is reached only through the environment it gives to a child process. A missing program or library is a
failure that names the Debian package, never a skip.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ALSA_CONF = Path("/usr/share/alsa/alsa.conf")
RECORDED_SPEECH = Path("/usr/share/sounds/alsa/Front_Center.wav")
DEVICE = "rackpulse"
FILE_DEVICE = "rackfile"
_READY_SECONDS = 10.0


def require_program(name: str, package: str) -> str:
    path = shutil.which(name)
    assert path is not None, f"{name} is missing: apt-get install {package}"
    return path


def require_file(path: Path, package: str) -> Path:
    assert path.exists(), f"{path} is missing: apt-get install {package}"
    return path


def require_portaudio() -> None:
    found = ctypes.util.find_library("portaudio")
    assert found is not None, "PortAudio is missing: apt-get install libportaudio2"
    require_file(ALSA_CONF, "libasound2-data")


@dataclass
class PulseRig:
    """A running sound server with one null sink; ``environment`` is for children that capture from it."""

    directory: Path
    environment: dict[str, str]
    server: subprocess.Popen[bytes]

    def play(self, raw: Path, channels: int) -> subprocess.Popen[bytes]:
        paplay = require_program("paplay", "pulseaudio-utils")
        command = [paplay, "--raw", "--format=s16le", "--rate=48000", f"--channels={channels}"]
        return subprocess.Popen([*command, "-d", "rack", str(raw)], env=self.environment)

    def kill_server(self) -> None:
        self.server.send_signal(signal.SIGKILL)
        self.server.wait(10)

    def start_server(self) -> None:
        (self.directory / "native").unlink(missing_ok=True)
        self.server = _start_server(self.directory, self.environment)


@contextmanager
def pulse_rig(directory: Path) -> Iterator[PulseRig]:
    require_portaudio()
    require_program("pulseaudio", "pulseaudio")
    plugin = next(iter(sorted(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so"))), None)
    assert plugin is not None, "ALSA's pulse plug-in is missing: apt-get install libasound2-plugins"
    asoundrc = directory / "asoundrc"
    asoundrc.write_text(
        f'pcm.{DEVICE} {{ type pulse device "rack.monitor" hint {{ show on description "rack pulse" }} }}\n'
    )
    environment = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(directory),
        "PULSE_RUNTIME_PATH": str(directory),
        "HOME": str(directory),
        "PULSE_SERVER": f"unix:{directory}/native",
        "ALSA_CONFIG_PATH": f"{ALSA_CONF}:{asoundrc}",
    }
    rig = PulseRig(directory, environment, _start_server(directory, environment))
    try:
        yield rig
    finally:
        rig.server.terminate()
        try:
            rig.server.wait(10)
        except subprocess.TimeoutExpired:
            rig.kill_server()


def file_device_environment(
    directory: Path, raw: Path, channels: int, format_: str = "S16_LE"
) -> dict[str, str]:
    """The environment in which PortAudio's ``rackfile`` reads raw 48 kHz audio of an ALSA format from ``raw``."""
    require_portaudio()
    asoundrc = directory / "asoundrc-file"
    asoundrc.write_text(
        f"pcm.{FILE_DEVICE} {{ type plug slave {{ pcm {{ type file slave.pcm null file /dev/null"
        f' infile "{raw}" format raw }} format {format_} channels {channels} rate 48000 }}'
        ' hint { show on description "rack file" } }\n'
    )
    return {**os.environ, "HOME": str(directory), "ALSA_CONFIG_PATH": f"{ALSA_CONF}:{asoundrc}"}


def _start_server(directory: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    log = (directory / "pulseaudio.log").open("ab")
    with log:
        server = subprocess.Popen(
            [
                *("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"),
                "--disable-shm=yes",
                *("-L", f"module-native-protocol-unix socket={directory}/native auth-anonymous=1"),
                "-L",
                "module-null-sink sink_name=rack format=s16le rate=48000 channels=2 norewinds=1",
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    pactl = require_program("pactl", "pulseaudio-utils")
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, (directory / "pulseaudio.log").read_text()
        listing = subprocess.run(
            [pactl, "list", "short", "sources"], env=environment, capture_output=True, timeout=10, check=False
        )
        if b"rack.monitor" in listing.stdout:
            return server
        time.sleep(0.02)
    server.kill()
    raise AssertionError("PulseAudio did not start: " + (directory / "pulseaudio.log").read_text())
