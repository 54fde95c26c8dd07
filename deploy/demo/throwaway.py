"""A throw-away cluster on this machine: keys, mixer and racks, made and ended by the real commands.

Rules: every step is a ``stagebox`` command an operator would type; loopback and free ports only; tokens go by
standard input, never by a command line; leaving the ``async with`` ends every process, racks first.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from demo.errors import DemoError
from demo.limits import LIMITS
from demo.processes import Child, command, stagebox
from demo.waiting import ReadySocket
from stagebox.errors import ConfigError
from stagebox.identity import machine_id

CLUSTER = "demo"
_READY = re.compile(r"mixer ready: https port (\d+), snake port (\d+)")
_DAMAGED = 77  # exit code of `rack wal verify` for a journal that does not verify


@dataclass(frozen=True)
class MixerAddress:
    """Where the mixer listens, and how long it took from spawn to its ready line."""

    https_port: int
    snake_port: int
    startup_ms: float

    @property
    def api(self) -> str:
        """The base URL of the API."""
        return f"https://127.0.0.1:{self.https_port}"

    @property
    def snake(self) -> str:
        """The URL racks and subscribers connect to."""
        return f"wss://127.0.0.1:{self.snake_port}"


@dataclass(frozen=True)
class Ticket:
    """What enrolling one rack needs."""

    token: str
    ca_pin: str


class ThrowawayCluster:
    """Everything that runs, in ``directory``, which must be private to this user."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mixer: Child | None = None
        self._racks: dict[str, Child] = {}
        self._machine = _machine_settings()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        troubles = []
        for stop in (self.stop_racks, self.stop_mixer):
            try:
                await stop()
            except DemoError as trouble:
                troubles.append(trouble)
        # What went wrong first is what matters; how its remains ended is not.
        if troubles and error is None:
            raise troubles[0]

    @property
    def mixer_dir(self) -> Path:
        """The mixer's keys."""
        return self._directory / "cluster" / "mixer"

    @property
    def admin(self) -> Path:
        """The identity directory that makes tokens."""
        return self._directory / "ops"

    @property
    def viewer(self) -> Path:
        """The identity directory of the screen: it may read telemetry and publish nothing."""
        return self._directory / "viewer"

    def log(self, name: str) -> Path:
        """Return the log file of one process or command."""
        return self._directory / f"{name}.log"

    def state_dir(self, rack: str) -> Path:
        """Return the state directory of a rack."""
        return self._directory / rack

    def rack_pid(self, rack: str) -> int:
        """Return the process id of a running rack."""
        return self._racks[rack].pid

    @property
    def mixer_pid(self) -> int:
        """The process id of the running mixer."""
        assert self._mixer is not None
        return self._mixer.pid

    async def make_keys(self) -> None:
        """Make the cluster, an admin for tokens and a viewer for the screen."""
        log, cluster = self.log("keys"), str(self._directory / "cluster")
        await command(
            "gen-cluster",
            ["keys", "gen-cluster", "--dir", cluster, "--name", CLUSTER, "--no-passphrase"],
            log=log,
        )
        async with asyncio.TaskGroup() as group:
            for name, role in (("ops", "admin"), ("viewer", "viewer")):
                out = str(self._directory / name)
                arguments = [
                    "keys",
                    "gen-client",
                    "--dir",
                    cluster,
                    "--role",
                    role,
                    "--name",
                    name,
                    "--out",
                    out,
                ]
                group.create_task(command("gen-client", arguments, log=log))

    async def start_mixer(self) -> MixerAddress:
        """Start the mixer and return its address when it says that it is ready."""
        arguments = [stagebox(), "mixer", "run", "--dir", str(self._directory / "cluster" / "mixer")]
        for listener in ("https", "snake"):
            arguments += [f"--{listener}-host", "127.0.0.1", f"--{listener}-port", "0"]
        self._mixer = await Child.spawn("mixer", arguments, log=self.log("mixer"))
        line = await self._mixer.line(LIMITS.mixer_ready)
        took = asyncio.get_running_loop().time() - self._mixer.spawned
        found = _READY.fullmatch(line)
        if found is None:
            raise DemoError(f"the mixer said {line!r} instead of its ports", log=self.log("mixer"))
        return MixerAddress(int(found[1]), int(found[2]), took * 1000)

    async def start_rack(self, name: str, source: str) -> None:
        """Start a rack that waits for its enrollment; returns when it does."""
        arguments = [stagebox(), "rack", "run", "--wait-for-enrollment", "--source", source]
        with ReadySocket() as notifications:
            settings = {
                **self._machine,
                "NOTIFY_SOCKET": notifications.address,
                "STAGEBOX_RACK_HEARTBEAT_INTERVAL": str(LIMITS.heartbeat),
            }
            child = await Child.spawn(
                f"rack {name}",
                [*arguments, "--state-dir", str(self.state_dir(name))],
                log=self.log(name),
                settings=settings,
            )
            self._racks[name] = child
            await self._first(notifications.ready(), child)

    async def make_ticket(self, mixer: MixerAddress, rack: str) -> Ticket:
        """Create a one-time token for ``rack``."""
        out = await command(
            "token create",
            ["admin", "token", "create", "--rack", rack, "--mixer", mixer.api,
             "--identity", str(self._directory / "ops"), "--json"],
            log=self.log("token"),
        )  # fmt: skip
        made = json.loads(out)
        return Ticket(str(made["token"]), str(made["ca_pin"]))

    async def enroll(self, mixer: MixerAddress, rack: str, ticket: Ticket) -> tuple[float, float]:
        """Enroll ``rack``; returns the monotonic times at which `admin enroll` was spawned and had ended."""
        child = await Child.spawn(
            f"enroll {rack}",
            [stagebox(), "admin", "enroll", "--mixer", mixer.api, "--ca-pin", ticket.ca_pin, "--rack", rack,
             "--token-file", "-", "--state-dir", str(self.state_dir(rack))],
            log=self.log("enroll"), settings=self._machine, stdin=True,
        )  # fmt: skip
        code, _ = await child.finish(ticket.token + "\n", LIMITS.command)
        if code:
            raise DemoError(f"enrolling rack {rack!r} ended with code {code}", log=self.log("enroll"))
        return child.spawned, asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """Return never; raises when a process ends that nobody asked to.

        Raises:
            DemoError: that happened.
        """
        children = [child for child in (self._mixer, *self._racks.values()) if child is not None]
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(_must_not_end(child))

    async def stop_racks(self) -> None:
        """Stop every rack: each sends and journals its last records, and ships what it can."""
        racks, self._racks = self._racks, {}
        await _stop_all([(child, LIMITS.rack_stop) for child in racks.values()])

    async def stop_mixer(self) -> None:
        """Stop the mixer and its nats-server."""
        mixer, self._mixer = self._mixer, None
        await _stop_all([(mixer, LIMITS.mixer_stop)] if mixer is not None else [])

    async def verify_journal(self, rack: str) -> dict[str, Any]:
        """Verify a stopped rack's journal from its first record to its last; returns what was covered."""
        out = await command(
            "wal verify",
            ["rack", "wal", "verify", "--json", "--state-dir", str(self.state_dir(rack))],
            log=self.log("wal-verify"),
            codes=(0, _DAMAGED),
        )
        report: dict[str, Any] = json.loads(out)
        return report

    async def _first(self, ready: Any, child: Child) -> None:
        waiting, ended = asyncio.ensure_future(ready), asyncio.ensure_future(child.failure())
        try:
            async with asyncio.timeout(LIMITS.rack_waiting):
                await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise DemoError(
                f"the {child.name} was not up in {LIMITS.rack_waiting:g} s", log=child.log
            ) from None
        finally:
            for task in (waiting, ended):
                if not task.done():
                    task.cancel()
        if ended.done() and not ended.cancelled() and not waiting.done():
            raise ended.result()


def _machine_settings() -> dict[str, str]:
    """Return nothing where the machine has an id; many containers have none, and get one for this run."""
    try:
        machine_id()
    except ConfigError:
        return {"STAGEBOX_RACK_MACHINE_ID": str(secrets.randbits(63) + 1)}
    return {}


async def _must_not_end(child: Child) -> None:
    error = await child.failure()
    if child.ended_early:
        raise error


async def _stop_all(children: list[tuple[Child, float]]) -> None:
    results = await asyncio.gather(*(child.stop(limit) for child, limit in children), return_exceptions=True)
    for (child, _), result in zip(children, results, strict=True):
        if isinstance(result, BaseException):
            raise result
        if result:
            raise DemoError(f"the {child.name} ended with code {result}", log=child.log)
