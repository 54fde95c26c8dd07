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
    with tempfile.TemporaryDirectory(prefix="renew.", dir=identity.paths.directory) as name:
        request, out = Path(name) / "rack.csr", Path(name) / "chain.pem"
        private = Ed25519PrivateKey.from_private_bytes(bytes(identity.key))
        request.write_bytes(build_csr(private, "stagebox-rack"))
        environment = _environment(
            os.environ,
            STAGEBOX_RENEW_CSR=str(request),
            STAGEBOX_RENEW_OUT=str(out),
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


async def _run(
    argv: Sequence[str], environment: Mapping[str, str], timeout: float
) -> tuple[int | None, bytes]:
    """Return (status, or None if its time was up; the first bytes of what it printed)."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RenewCommandError(
            f"the renew command {argv[0]!r} cannot be started: {reason}", remedy="check rack.renew_command"
        ) from None
    said = bytearray()
    reading = asyncio.create_task(_read_output(process, said))
    try:
        async with asyncio.timeout(timeout):
            return await process.wait(), bytes(said)
    except TimeoutError:
        return None, bytes(said)
    finally:
        await _end_group(process)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read_output(process: asyncio.subprocess.Process, said: bytearray) -> None:
    assert process.stdout is not None
    while chunk := await process.stdout.read(4096):
        said += chunk[: max(0, LIMITS.renew_command_output - len(said))]


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End what is left of the process group: the program, or children it left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        if number is signal.SIGTERM and process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIMITS.renew_command_kill):
                    await process.wait()
    await process.wait()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(LIMITS.renew_command_chain + 1)
    except OSError as error:
        raise RenewCommandError(
            f"the renew command left no certificate: {error.strerror}",
            remedy="it must write the PEM chain to $STAGEBOX_RENEW_OUT",
        ) from None
    if len(data) > LIMITS.renew_command_chain:
        raise RenewCommandError(f"the renew command wrote more than {LIMITS.renew_command_chain} bytes")
    return data
