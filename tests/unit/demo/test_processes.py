from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.errors import DemoError
from demo.processes import Child, environment, tail
from demo.waiting import ReadySocket
from stagebox.systemd import Notifier

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
GRANDCHILD = (
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print(p.pid, flush=True); time.sleep(60)"
)


async def python(code: str, log: Path, **settings: str) -> Child:
    return await Child.spawn("test child", [sys.executable, "-c", code], log=log, settings=settings)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that waits for init to reap it has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(5):
        while not gone(pid):  # noqa: ASYNC110 - another process's end has no event here
            await asyncio.sleep(0.01)


async def test_a_child_that_will_not_stop_is_killed_and_reported(tmp_path: Path) -> None:
    child = await python(STUBBORN, tmp_path / "log")
    assert await child.line(10) == "up"
    with pytest.raises(DemoError, match=r"did not stop in 0\.1 s and was killed"):
        await child.stop(0.1)


async def test_nothing_of_a_childs_session_survives_it(tmp_path: Path) -> None:
    child = await python(GRANDCHILD, tmp_path / "log")
    grandchild = int(await child.line(10))
    assert not gone(grandchild)
    await child.stop(5)
    await until_gone(grandchild)


async def test_a_child_that_ends_by_itself_is_an_error_with_its_log(tmp_path: Path) -> None:
    child = await python("import sys; sys.stderr.write('no such file\\n'); sys.exit(3)", tmp_path / "log")
    with pytest.raises(DemoError, match="ended by itself with code 3") as caught:
        await child.line(10)
    assert caught.value.log is not None
    assert tail(caught.value.log) == ["no such file"]
    assert child.ended_early


async def test_a_command_that_hangs_is_killed(tmp_path: Path) -> None:
    child = await python("import time; time.sleep(60)", tmp_path / "log")
    with pytest.raises(DemoError, match=r"took over 0\.2 s"):
        await child.finish(None, 0.2)


def test_the_users_own_settings_do_not_reach_the_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEBOX_RACK_SOURCES", "tone:440@-20")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("KEPT", "1")
    made = environment({"STAGEBOX_RACK_HEARTBEAT_INTERVAL": "1"})
    assert made["KEPT"] == "1"
    assert made["STAGEBOX_RACK_HEARTBEAT_INTERVAL"] == "1"
    assert "STAGEBOX_RACK_SOURCES" not in made
    assert "NOTIFY_SOCKET" not in made


def test_a_child_ends_when_the_demo_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from demo.processes import Child\n"
        "async def main():\n"
        f"    child = await Child.spawn('c', [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); "
        f"time.sleep(60)'], log=Path({str(tmp_path / 'log')!r}))\n"
        "    print(await child.line(10), flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    path = {"PYTHONPATH": str(Path(__file__).parents[3] / "deploy")}
    demo = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, **path})
    assert demo.stdout is not None
    with demo.stdout:
        child = int(demo.stdout.readline())
        demo.send_signal(signal.SIGKILL)
        demo.wait(10)
    asyncio.run(until_gone(child))


async def test_a_rack_that_waits_is_heard() -> None:
    with ReadySocket() as notifications:
        notifier = Notifier({"NOTIFY_SOCKET": notifications.address})
        notifier.notify("STATUS=starting")
        notifier.notify("READY=1", "STATUS=waiting for enrollment")
        async with asyncio.timeout(5):
            await notifications.ready()


def test_the_tail_of_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == []
