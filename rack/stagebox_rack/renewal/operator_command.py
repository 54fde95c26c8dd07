"""The operator's own way to a certificate: a program is run, and what it leaves is taken only if it proves itself.

Rules: no shell; a process group of its own, ended as a whole when its time is up; of what it prints a bounded part
reaches the log, and all of it is read, so that it never blocks; its files live in a private directory that is removed.
It learns from the environment: ``STAGEBOX_RENEW_CSR`` (a PEM request of the identity key), ``STAGEBOX_RENEW_OUT``
(where the PEM chain goes, leaf first), ``STAGEBOX_RENEW_URI`` (the name the certificate must carry) and
``STAGEBOX_RENEW_NOT_AFTER`` (when the present one ends). The key itself is not given away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox.certificates import build_csr
from stagebox.errors import StageboxError
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import RackIdentity

log = structlog.get_logger()

_KEPT_FROM_IT = ("STAGEBOX_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")  # ours alone, or may name secrets


class RenewCommandError(StageboxError):
    """The renew command failed."""


async def run(argv: Sequence[str], identity: RackIdentity, *, timeout: float) -> bytes:
    """Run the command for ``identity``; return the PEM it wrote, which is not verified.

    Raises:
        RenewCommandError: it cannot be started, fails, takes too long, or writes nothing or too much.
    """
    directory = identity.paths.directory
    try:
        with tempfile.TemporaryDirectory(prefix="renew.", dir=directory, ignore_cleanup_errors=True) as name:
            return await _run_in(Path(name), argv, identity, timeout)
    except OSError as error:
        raise RenewCommandError(
            f"cannot make the files of the renew command in {directory}: {error.strerror}",
            remedy="check that the state directory is writable by this user and has free space",
        ) from None


async def _run_in(directory: Path, argv: Sequence[str], identity: RackIdentity, timeout: float) -> bytes:
    request, out = directory / "rack.csr", directory / "chain.pem"
    private = Ed25519PrivateKey.from_private_bytes(bytes(identity.key))
    request.write_bytes(build_csr(private, "stagebox-rack"))
    environment = _environment(
        os.environ,
        STAGEBOX_RENEW_CSR=str(request.absolute()),
        STAGEBOX_RENEW_OUT=str(out.absolute()),
        STAGEBOX_RENEW_URI=identity.passport.rack_id.uri,
        STAGEBOX_RENEW_NOT_AFTER=identity.chain[0].not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    status, said = await _run(argv, environment, timeout)
    for line in said.decode("utf-8", "backslashreplace").splitlines():
        log.info("renew_command_output", line=ascii(line)[1:-1])
    if status is None:
        raise RenewCommandError(f"the renew command took longer than {timeout:g} s and was ended")
    if status != 0:
        raise RenewCommandError(
            f"the renew command ended with status {status}", remedy="see renew_command_output in the log"
        )
    return _read(out)


def _environment(outer: Mapping[str, str], **ours: str) -> dict[str, str]:
    kept = {name: value for name, value in outer.items() if not name.startswith(_KEPT_FROM_IT)}
    return {**kept, **ours}


class _Output(asyncio.Protocol):
    """Reads all that is printed and keeps the first bytes of it."""

    def __init__(self) -> None:
        self.kept = bytearray()
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Keep what there is room for."""
        self.kept += data[: max(0, LIMITS.renew_command_output - len(self.kept))]

    def connection_lost(self, _reason: Exception | None) -> None:
        """Nobody has the other end any more."""
        self.ended.set()


async def _run(
    argv: Sequence[str], environment: Mapping[str, str], timeout: float
) -> tuple[int | None, bytes]:
    """Return (status, or None if its time was up; the first bytes of what it printed)."""
    # A pipe of ours: asyncio's own would have us wait for everybody who inherited it, a daemon for ever.
    reading, writing = os.pipe()
    try:
        transport, output = await asyncio.get_running_loop().connect_read_pipe(
            _Output, os.fdopen(reading, "rb", 0)
        )
        try:
            process = await _start(argv, environment, writing)
        except BaseException:
            transport.close()
            raise
    finally:
        os.close(writing)
    try:
        async with asyncio.timeout(timeout):
            status: int | None = await process.wait()
    except TimeoutError:
        status = None
    finally:
        try:
            await _end_group(process)
            with contextlib.suppress(TimeoutError):  # a daemon it started may hold its end open for ever
                async with asyncio.timeout(LIMITS.renew_command_kill):
                    await output.ended.wait()
        finally:
            transport.close()
    return status, bytes(output.kept)


async def _start(
    argv: Sequence[str], environment: Mapping[str, str], output: int
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RenewCommandError(
            f"the renew command {argv[0]!r} cannot be started: {reason}", remedy="check rack.renew_command"
        ) from None


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End what is left of the process group: the program, or children it left behind."""
    try:
        _signal_group(process, signal.SIGTERM)
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIMITS.renew_command_kill):
                    await process.wait()
    finally:
        _signal_group(process, signal.SIGKILL)  # also when we are told to hurry meanwhile
        await _reap(process)


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Wait for a killed process whatever comes in between: it is a moment, and left alone it would be a zombie."""
    waiting, hurried = asyncio.ensure_future(process.wait()), False
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            hurried = True
    if hurried:
        raise asyncio.CancelledError


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _read(path: Path) -> bytes:
    try:
        # Not blocking: were it a FIFO, the open would wait for a writer, and the whole rack with it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RenewCommandError("the renew command left no certificate: what it left is not a file")
            data = b""
            while chunk := os.read(descriptor, LIMITS.renew_command_chain + 1 - len(data)):
                data += chunk
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RenewCommandError(
            f"the renew command left no certificate: {error.strerror}",
            remedy="it must write the PEM chain to $STAGEBOX_RENEW_OUT",
        ) from None
    if len(data) > LIMITS.renew_command_chain:
        raise RenewCommandError(f"the renew command wrote more than {LIMITS.renew_command_chain} bytes")
    return data
