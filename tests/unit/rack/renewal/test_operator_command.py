"""The operator's renew command: what it learns, what it may do, and what of it reaches the log."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from stagebox.config.registry import settings_class
from stagebox.tasks import end_tasks
from stagebox_rack.limits import LIMITS
from stagebox_rack.renewal.operator_command import RenewCommandError, run
from stagebox_rack.settings import RackSettings
from stagebox_rack.state import RackIdentity
from support.issuer import Issuer


@pytest.fixture
def identity(tmp_path: Path) -> RackIdentity:
    return Issuer().enroll(tmp_path / "state").open().main


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def test_it_learns_what_to_certify_and_where_to_put_it_and_its_files_are_removed(
    identity: RackIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEBOX_KEYS_PASSPHRASE", "hunter22")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    code = (
        "import os; e = os.environ; assert 'STAGEBOX_KEYS_PASSPHRASE' not in e and 'NOTIFY_SOCKET' not in e; "
        "open(e['STAGEBOX_RENEW_OUT'], 'w').write(open(e['STAGEBOX_RENEW_CSR']).read() + e['STAGEBOX_RENEW_URI']"
        " + e['STAGEBOX_RENEW_NOT_AFTER'])"
    )
    wrote = (await run(python(code), identity, timeout=20)).decode()
    csr = x509.load_pem_x509_csr(wrote.split("spiffe")[0].encode())
    assert csr.is_signature_valid
    key = csr.public_key()
    assert not isinstance(key, str)
    assert key.public_bytes_raw() == identity.public  # type: ignore[union-attr]
    assert wrote.endswith(
        f"{identity.passport.rack_id.uri}{identity.chain[0].not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    )
    assert not list(identity.paths.directory.glob("renew.*"))


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (python("raise SystemExit(3)"), "ended with status 3"),
        (python("pass"), "left no certificate"),
        (("/nonexistent/renew",), "cannot be started"),
        (python("import os; open(os.environ['STAGEBOX_RENEW_OUT'],'w').write('x' * (1 << 17))"), "more than"),
        (python("import os; os.mkdir(os.environ['STAGEBOX_RENEW_OUT'])"), "left no certificate"),
        (python("import os; os.mkfifo(os.environ['STAGEBOX_RENEW_OUT'])"), "not a file"),
    ],
)
async def test_a_command_that_fails_says_how(
    identity: RackIdentity, argv: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(RenewCommandError, match=reason):
        await run(argv, identity, timeout=20)
    assert not list(identity.paths.directory.glob("renew.*"))


async def test_a_command_that_hangs_is_ended_with_all_its_children(
    identity: RackIdentity, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "ignore = 'import signal, time; signal.signal(15, 1); time.sleep(99)'; "
        "child = subprocess.Popen([sys.executable, '-c', ignore]); "
        f"open({str(pid)!r}, 'w').write(str(child.pid)); time.sleep(99)"
    )
    started = time.monotonic()
    with pytest.raises(RenewCommandError, match="longer than 1 s"):
        await run(python(code), identity, timeout=1.0)
    assert time.monotonic() - started < 1 + LIMITS.renew_command_kill + 5
    async with asyncio.timeout(5):
        while _alive(int(pid.read_text())):  # noqa: ASYNC110 - the kernel sends no event for another's child
            await asyncio.sleep(0.01)


async def test_a_command_that_ignores_its_end_dies_when_the_rack_stops(
    identity: RackIdentity, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(pid)!r}, 'w').write(f'{{os.getpid()}}.'); time.sleep(99)"
    )
    running = asyncio.create_task(run(python(code), identity, timeout=60))
    async with asyncio.timeout(10):
        while not (pid.exists() and pid.read_text().endswith(".")):  # noqa: ASYNC110 - a file appears
            await asyncio.sleep(0.01)
    await end_tasks([running])
    async with asyncio.timeout(5):
        while _alive(int(pid.read_text()[:-1])):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_daemon_it_leaves_behind_is_not_waited_for_and_holds_no_descriptor_of_ours(
    identity: RackIdentity, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    code = (
        "import os, subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
        f"open({str(pid)!r}, 'w').write(str(child.pid)); print('begun', flush=True); "
        "open(os.environ['STAGEBOX_RENEW_OUT'], 'w').write('done')"
    )
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    try:
        with capture_logs() as logs:
            assert await run(python(code), identity, timeout=20) == b"done"
        assert [entry["line"] for entry in logs] == ["begun"]
        async with asyncio.timeout(5):
            while len(list(Path("/proc/self/fd").iterdir())) > descriptors:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_a_full_disk_is_said_to_be_what_it_is(
    identity: RackIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(RenewCommandError, match="No space left on device"):
        await run(python("pass"), identity, timeout=20)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_what_it_prints_is_bounded_and_escaped_and_never_blocks_it(identity: RackIdentity) -> None:
    code = (
        "import os, sys; print('\\x1b[31mred'); sys.stdout.write('y' * 5_000_000); sys.stdout.flush(); "
        "open(os.environ['STAGEBOX_RENEW_OUT'], 'w').write('done')"
    )
    with capture_logs() as logs:
        assert await run(python(code), identity, timeout=30) == b"done"
    lines = [entry["line"] for entry in logs if entry["event"] == "renew_command_output"]
    assert lines[0] == "\\x1b[31mred"
    assert sum(map(len, lines)) <= LIMITS.renew_command_output + 16


def test_the_command_is_split_like_a_shell_would_and_run_by_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_class("rack") is RackSettings
    assert RackSettings(renew_command="/bin/renew --name 'a b' $(x)").renew_command == (  # type: ignore[arg-type]
        "/bin/renew", "--name", "a b", "$(x)",
    )  # fmt: skip
    assert RackSettings(renew_command=["/bin/renew", "a, b"]).renew_command == ("/bin/renew", "a, b")  # type: ignore[arg-type]
