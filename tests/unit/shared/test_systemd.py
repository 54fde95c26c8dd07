from __future__ import annotations

import asyncio
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagebox.systemd import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield receiver


def heard(receiver: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(receiver.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_states_reach_the_service_manager_as_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.notify("READY=1", "STATUS=running as stage-left")
    notifier.notify("STOPPING=1")
    assert heard(manager) == ["READY=1\nSTATUS=running as stage-left", "STOPPING=1"]


def test_a_manager_that_does_not_read_blocks_nobody(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})

    def feed() -> None:
        for _ in range(5000):
            notifier.notify("WATCHDOG=1")

    sender = threading.Thread(target=feed, daemon=True)
    sender.start()
    sender.join(5)
    assert not sender.is_alive()
    assert set(heard(manager)) == {"WATCHDOG=1"}


def test_an_abstract_socket_is_understood() -> None:
    name = f"stagebox-test-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.setblocking(False)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).notify("READY=1")
        assert heard(receiver) == ["READY=1"]


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@stagebox-nobody-listens"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    Notifier({"NOTIFY_SOCKET": address} if address else {}).notify("READY=1")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None), ({"WATCHDOG_USEC": "30000000"}, 30.0), ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None), ({"WATCHDOG_USEC": "-1"}, None), ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}, 1.0),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, None),
    ],
)  # fmt: skip
def test_the_watchdog_interval_is_read_as_documented(
    environment: dict[str, str], expected: float | None
) -> None:
    assert Notifier(environment).watchdog_s == expected


async def test_a_healthy_process_feeds_the_watchdog_and_a_sick_one_falls_silent(
    manager: socket.socket,
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "4000"})
    loop = asyncio.get_running_loop()
    answers = iter([True, True, True])
    asked_when_sick = asyncio.Event()

    def healthy() -> bool:
        alive = next(answers, False)
        if not alive:
            asked_when_sick.set()
        return alive

    task = loop.create_task(notifier.watch(healthy))
    await asyncio.wait_for(asked_when_sick.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert heard(manager) == ["WATCHDOG=1"] * 3


async def test_without_a_watchdog_watching_returns_at_once(manager: socket.socket) -> None:
    await asyncio.wait_for(Notifier({"NOTIFY_SOCKET": manager.getsockname()}).watch(lambda: True), 1)
    await asyncio.wait_for(Notifier({"WATCHDOG_USEC": "1000"}).watch(lambda: True), 1)
    assert heard(manager) == []
