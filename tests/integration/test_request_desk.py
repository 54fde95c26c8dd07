"""Requests of racks over a real nats-server: answered into the rack's own inbox, or refused and audited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from stagebox import envelope, subjects
from stagebox.bus import BusMessage
from stagebox.control.fields import payload_digest
from stagebox.control.request import Answer, Request, Verb, open_answer
from stagebox.errors import BusError
from stagebox_mixer.requests import RequestDesk
from support.cluster import Cluster
from support.command_scene import BOOT, QUICK, RACK, Scene, command_scene


@pytest.fixture
async def scene(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Scene]:
    async with command_scene(cluster, tmp_path) as made:
        yield made


async def desk(scene: Scene, handler: Callable[[bytes, str], Awaitable[bytes]]) -> RequestDesk:
    made = RequestDesk(bus=scene.live, audit=scene.audit, handlers={Verb.SYNC: handler}, limits=QUICK)
    await made.start()
    return made


def request(scene: Scene, **fields: Any) -> Request:
    made = Request(scene.bus.cluster.name, RACK, Verb.SYNC.value, BOOT, 1, {"x": 1})
    return replace(made, **fields)


async def test_a_request_is_answered_by_its_handler_into_the_racks_inbox(scene: Scene) -> None:
    asked = request(scene)
    authority = scene.bus.cluster.keys.authority

    async def answer(data: bytes, source: str) -> bytes:
        assert (data, source) == (asked.seal(scene.rack.key), f"rack:{RACK}")
        digest = payload_digest(envelope.split(data)[0])
        made = Answer(asked.cluster, RACK, asked.verb, digest, 2, "too_soon", "later")
        return authority.seal(envelope.DOMAIN_ANSWER, made.encode())

    served = await desk(scene, answer)
    reply = await scene.rack.bus.request(subjects.request(RACK, "sync"), asked.seal(scene.rack.key))
    assert open_answer(reply.payload, authority.public, asked).error == "too_soon"
    await served.stop()
    assert (served.answered, served.refused, served.failed) == (1, 0, 0)


async def test_what_does_not_agree_with_its_subject_is_audited_and_not_answered(scene: Scene) -> None:
    handled: list[bytes] = []

    async def handler(data: bytes, _source: str) -> bytes:
        handled.append(data)
        return b"answer"

    served = await desk(scene, handler)
    rack, subject = scene.rack.bus, subjects.request(RACK, "sync")
    inbox = f"{subjects.inbox_prefix('rack', RACK)}.x"
    answers: list[BusMessage] = []
    await rack.subscribe(f"{subjects.inbox_prefix('rack', RACK)}.>", answers.append)
    good = request(scene).seal(scene.rack.key)
    for data, reply in (
        (good, ""),
        (good, subjects.status(RACK)),
        (good, f"{subjects.inbox_prefix('rack', 'stage-right')}.x"),
        (request(scene, rack="stage-right").seal(scene.rack.key), inbox),
        (request(scene, verb="renew").seal(scene.rack.key), inbox),
        (b"garbage", inbox),
    ):
        rack.publish(subject, data, reply=reply)
        await rack.flush()
    rack.publish(
        subjects.request(RACK, "time"), request(scene, verb="time").seal(scene.rack.key), reply=inbox
    )
    await rack.flush()
    for reason in ("reply_subject", "other_rack", "other_verb", "malformed", "unknown_verb"):
        row = await scene.audited("request", reason=reason)
        assert (row["actor"], row["result"], row["subject"]) == (f"rack:{RACK}", "refused", RACK)
    await served.stop()
    assert (served.refused, served.answered) == (7, 0)
    assert not handled
    assert not answers


async def test_a_handler_that_fails_leaves_the_request_unanswered_and_the_desk_open(scene: Scene) -> None:
    failures: list[Exception] = [BusError("the registry is away"), RuntimeError("a bug")]

    async def handler(_data: bytes, _source: str) -> bytes:
        if failures:
            raise failures.pop()
        return b"answer"

    served = await desk(scene, handler)
    data, subject = request(scene).seal(scene.rack.key), subjects.request(RACK, "sync")
    for _ in range(2):
        with pytest.raises(BusError, match="no answer"):
            await scene.rack.bus.request(subject, data, timeout=0.2)
    assert (await scene.rack.bus.request(subject, data)).payload == b"answer"
    await served.stop()
    assert (served.answered, served.failed) == (1, 2)


async def test_one_rack_that_asks_without_end_does_not_keep_another_waiting(scene: Scene) -> None:
    release, running = asyncio.Event(), 0

    async def handler(_data: bytes, source: str) -> bytes:
        nonlocal running
        if source == f"rack:{RACK}":
            running += 1
            await release.wait()
        return b"answer"

    served = await desk(scene, handler)
    greedy, other = scene.rack.bus, await scene.bus.rack("stage-right")
    data = request(scene).seal(scene.rack.key)
    for number in range(200):
        reply = f"{subjects.inbox_prefix('rack', RACK)}.{number}"
        greedy.publish(subjects.request(RACK, "sync"), data, reply=reply)
    await greedy.flush()
    asked = request(scene, rack="stage-right").seal(SigningKey.generate())
    assert (await other.request(subjects.request("stage-right", "sync"), asked)).payload == b"answer"
    assert running == QUICK.requests_per_rack
    row = await scene.audited("request", reason="busy")
    assert row["result"] == "refused"
    release.set()
    await served.stop()
    assert served.refused == 200 - QUICK.requests_per_rack


async def test_two_mixers_share_the_requests(scene: Scene) -> None:
    async def handler(_data: bytes, _source: str) -> bytes:
        return b"answer"

    first = await desk(scene, handler)
    second = RequestDesk(bus=await scene.bus.live(), audit=scene.audit, handlers={Verb.SYNC: handler})
    await second.start()
    data = request(scene).seal(scene.rack.key)
    for _ in range(20):
        await scene.rack.bus.request(subjects.request(RACK, "sync"), data)
    await first.stop()
    await second.stop()
    assert first.answered + second.answered == 20


async def test_a_rack_that_asks_too_often_is_refused_unread_and_counted_in_one_row(scene: Scene) -> None:
    async def handler(_data: bytes, _source: str) -> bytes:
        return b"answer"

    limits = replace(QUICK, requests_burst=5, requests_per_s=0.001)
    served = RequestDesk(bus=scene.live, audit=scene.audit, handlers={Verb.SYNC: handler}, limits=limits)
    await served.start()
    data = request(scene).seal(scene.rack.key)
    for _ in range(5):
        assert (await scene.rack.bus.request(subjects.request(RACK, "sync"), data)).payload == b"answer"
    for number in range(50):
        reply = f"{subjects.inbox_prefix('rack', RACK)}.{number}"
        scene.rack.bus.publish(subjects.request(RACK, "sync"), b"\x80" * 1000, reply=reply)
    await scene.rack.bus.flush()
    other = await scene.bus.rack("stage-right")
    asked = request(scene, rack="stage-right").seal(SigningKey.generate())
    assert (await other.request(subjects.request("stage-right", "sync"), asked)).payload == b"answer"
    await scene.audited("request", reason="too_many_requests")
    await served.stop()
    assert (served.answered, served.refused) == (6, 50)


async def test_a_rack_cannot_use_up_what_another_may_ask(scene: Scene) -> None:
    async def handler(_data: bytes, _source: str) -> bytes:
        return b"answer"

    await scene.bus.store()
    limits = replace(QUICK, requests_burst=2, requests_per_s=0.001)
    served = RequestDesk(bus=scene.live, audit=scene.audit, handlers={Verb.SYNC: handler}, limits=limits)
    await served.start()
    other = await scene.bus.rack("stage-right")
    await other.request(subjects.wal("stage-right"), b"noise")
    for _ in range(20):
        # JetStream answers wherever it is asked to.
        other.publish(
            f"$JS.API.DIRECT.GET.WAL.{subjects.wal('stage-right')}", b"", reply=subjects.request(RACK, "sync")
        )
    await scene.audited("request", reason="relayed")
    asked = request(scene).seal(scene.rack.key)
    assert (await scene.rack.bus.request(subjects.request(RACK, "sync"), asked)).payload == b"answer"
    await served.stop()


async def test_a_file_in_many_pieces_leaves_a_rack_its_other_requests(scene: Scene) -> None:
    async def handler(_data: bytes, _source: str) -> bytes:
        return b"answer"

    limits = replace(QUICK, requests_burst=2, requests_per_s=0.001, requests_modules_burst=20)
    handlers = {Verb.SYNC: handler, Verb.MODULE: handler}
    served = RequestDesk(bus=scene.live, audit=scene.audit, handlers=handlers, limits=limits)
    await served.start()
    rack = scene.rack.bus
    for verb, count in ((Verb.MODULE, 20), (Verb.SYNC, 2)):
        asked = request(scene, verb=verb.value).seal(scene.rack.key)
        for _ in range(count):
            assert (await rack.request(subjects.request(RACK, verb.value), asked)).payload == b"answer"
    await served.stop()
    assert (served.answered, served.refused) == (22, 0)
