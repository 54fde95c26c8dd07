"""Commands over a real nats-server, seen from the rack: what it obeys, once, and how it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from stagebox import envelope, subjects
from stagebox.bus import BusMessage
from stagebox.control.command import AckResult, Command
from stagebox.errors import PassportError, StorageError
from stagebox_rack.commands import mark as marks
from stagebox_rack.commands.service import CommandRefused
from support.cluster import Cluster
from support.command_scene import RACK, Scene, command_scene
from support.rackside import until


@pytest.fixture
async def scene(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Scene]:
    async with command_scene(cluster, tmp_path) as made:
        yield made


async def say(scene: Scene, *messages: bytes) -> None:
    for data in messages:
        scene.live.publish(subjects.command(RACK), data)
    await scene.live.flush()


async def alerted(scene: Scene, name: str, **match: object) -> dict[str, Any]:
    async def there() -> bool:
        return any(
            alert == name and all(detail.get(key) == value for key, value in match.items())
            for alert, detail in scene.rack.alerts
        )

    await until(there)
    return next(detail for alert, detail in scene.rack.alerts if alert == name)


async def test_unsigned_bytes_change_nothing_are_not_answered_and_cannot_flood_the_journal(
    scene: Scene,
) -> None:
    await scene.rack.start()
    acks: list[BusMessage] = []
    viewer = await scene.bus.client("ops")
    await viewer.subscribe(subjects.ALL_ACKS, acks.append)
    good = scene.sealed()
    flipped = bytearray(good)
    flipped[20] ^= 1
    forged = envelope.seal(envelope.DOMAIN_COMMAND, envelope.split(good)[0], SigningKey.generate())
    ack_of_a_rack = envelope.seal(envelope.DOMAIN_ACK, envelope.split(good)[0], scene.rack.key)
    noise = [b"", b"garbage", bytes(flipped), forged, ack_of_a_rack, scene.sealed(rack="stage-right")]
    await say(scene, *noise * 30)
    await alerted(scene, "command_refused", reason="signature", count=1)
    # Each reason once at once, and once more with the count of the rest when its window ends.
    await alerted(scene, "command_refused", reason="other_rack", count=29)
    assert len(scene.rack.alerts) <= 6
    assert not scene.rack.done
    assert not scene.rack.path.exists()
    await viewer.flush()
    assert not acks


async def test_a_replayed_an_older_and_an_expired_command_are_not_obeyed(scene: Scene) -> None:
    await scene.rack.start()
    now = time.time_ns()
    first, second = scene.sealed(seq=1), scene.sealed(seq=5, issued=now + 1)
    await say(scene, second, second, first, second, scene.sealed(seq=6, issued=now - 60, expires=now - 1))
    await alerted(scene, "command_refused", reason="old_sequence")
    await say(scene, scene.sealed(seq=7, issued=now + 2, expires=now + 3))
    await alerted(scene, "command_refused", reason="expired")
    assert [command.seq for command in scene.rack.done] == [5]
    assert {(ack.seq, ack.reason) for ack in scene.rack.acks} >= {
        (5, ""),
        (1, "old_sequence"),
        (7, "expired"),
    }


async def test_the_mark_outlives_a_restart_and_the_ack_is_the_same(scene: Scene) -> None:
    acks: asyncio.Queue[bytes] = asyncio.Queue()
    viewer = await scene.bus.client("ops")
    await viewer.subscribe(subjects.ack(RACK), lambda message: acks.put_nowait(message.payload))
    await scene.rack.start()
    command = scene.sealed(seq=5)
    await say(scene, command)
    first = await acks.get()
    assert (await scene.rack.restart()).highest == 5
    await say(scene, command)
    assert await acks.get() == first
    assert len(scene.rack.done) == 1
    assert len(scene.rack.acks) == 1, "a repeated ack is not journalled again"


async def test_a_command_interrupted_by_a_crash_is_not_begun_again(scene: Scene) -> None:
    begun = asyncio.Event()

    async def endless(_command: Command) -> None:
        begun.set()
        await asyncio.Event().wait()

    service = await scene.rack.start(status=endless)
    command = scene.sealed()
    await say(scene, command)
    await begun.wait()
    assert service._worker is not None
    service._worker.cancel()
    await scene.rack.restart()
    await say(scene, command)

    async def answered() -> bool:
        return bool(scene.rack.acks)

    await until(answered)
    (ack,) = scene.rack.acks
    assert (ack.result, ack.reason) == (AckResult.FAILED, "interrupted")
    assert not scene.rack.done


async def test_a_command_is_not_carried_out_unless_the_mark_is_durable(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True

    def save_mark(path: Path, mark: Any) -> None:
        if full:
            raise StorageError("the disk is full")
        marks.save_mark(path, mark)

    monkeypatch.setattr("stagebox_rack.commands.service.save_mark", save_mark)
    await scene.rack.start()
    sending = asyncio.create_task(scene.commands.send(RACK, "status", actor="ops"))
    await alerted(scene, "command_mark_not_kept")
    assert not scene.rack.done
    assert not sending.done()
    full = False
    assert (await sending).result is AckResult.DONE
    assert len(scene.rack.done) == 1


async def test_a_damaged_mark_refuses_everything_until_a_fresh_answer_of_the_mixer(scene: Scene) -> None:
    await scene.rack.start()
    old = scene.sealed(seq=9)
    await say(scene, scene.sealed(seq=8))
    await until_done(scene, 1)
    scene.rack.path.write_bytes(b"damaged" + scene.rack.path.read_bytes())
    service = await scene.rack.restart()
    assert (service.mark_lost, service.highest) == (True, 0)
    await alerted(scene, "command_mark_lost")
    assert (await scene.commands.send(RACK, "status", actor="ops")).reason == "mark_lost"
    await service.synced(1, time.time_ns())
    assert not service.mark_lost
    await say(scene, old)  # a higher number, but from before
    await alerted(scene, "command_refused", reason="issued_too_early")
    assert (await scene.commands.send(RACK, "status", actor="ops")).result is AckResult.DONE
    assert len(scene.rack.done) == 2
    assert (await scene.rack.restart()).highest == 2
    await service.synced(0, 0)
    assert (await scene.rack.restart()).highest == 2, "a mark that stands is not moved by a sync"


async def until_done(scene: Scene, count: int) -> None:
    async def reached() -> bool:
        return len(scene.rack.acks) >= count

    await until(reached)
    assert len(scene.rack.done) == count


@pytest.mark.parametrize(
    ("error", "result", "reason"),
    [
        (CommandRefused("older_passport", "it is older"), AckResult.REFUSED, "older_passport"),
        (PassportError("it does not verify"), AckResult.FAILED, "passport_error"),
        (RuntimeError("a bug"), AckResult.FAILED, "internal"),
        (TimeoutError(), AckResult.FAILED, "timeout"),
    ],
)
async def test_a_handler_that_fails_is_answered_and_does_not_end_the_service(
    scene: Scene, error: Exception, result: AckResult, reason: str
) -> None:
    async def fail(_command: Command) -> None:
        raise error

    await scene.rack.start(passport=fail, status=scene.rack.status)
    ack = await scene.commands.send(RACK, "passport", {}, actor="ops")
    assert (ack.result, ack.reason) == (result, reason)
    row = await scene.audited("command_ack", reason=reason)
    assert row["result"] == result.value
    assert (await alerted(scene, "command_failed"))["reason"] == reason
    assert (await scene.commands.send(RACK, "status", actor="ops")).result is AckResult.DONE


async def test_an_unknown_verb_is_refused_once_and_for_all(scene: Scene) -> None:
    service = await scene.rack.start()
    ack = await scene.commands.send(RACK, "dance", actor="ops")
    assert (ack.result, ack.reason) == (AckResult.REFUSED, "unknown_verb")
    assert service.highest == 1
