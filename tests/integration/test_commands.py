"""Commands over a real nats-server, seen from the mixer: numbered, audited, sent until answered, delivered once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox import envelope, subjects
from stagebox.control.command import Ack, AckResult, Command, CommandVerb, open_ack
from stagebox.errors import BusError, InputError
from stagebox_mixer.commands.delivery import PassportDelivery
from stagebox_mixer.commands.outbox import Outgoing
from stagebox_mixer.commands.service import Commands, CommandUnanswered
from support.cluster import Cluster
from support.command_scene import BOOT, QUICK, RACK, Scene, command_scene, pending


@pytest.fixture
async def scene(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Scene]:
    async with command_scene(cluster, tmp_path) as made:
        yield made


async def test_a_command_is_numbered_audited_carried_out_and_acknowledged(scene: Scene) -> None:
    await scene.rack.start()
    ack = await scene.commands.send(RACK, CommandVerb.STATUS, actor="client:admin:ops")
    assert (ack.result, ack.reason, ack.seq, ack.boot) == (AckResult.DONE, "", 1, BOOT)
    (done,) = scene.rack.done
    assert (done.verb, done.seq, done.rack) == ("status", 1, RACK)
    assert done.expires - done.issued == 30_000_000_000
    entry = await scene.registry.rack(RACK)
    assert entry is not None
    assert entry.command_seq == 1
    given, answered = await scene.audited("command"), await scene.audited("command_ack")
    assert (given["actor"], given["subject"], given["result"]) == ("client:admin:ops", RACK, "ok")
    assert (answered["actor"], answered["result"]) == (f"rack:{RACK}", "ok")
    for row in (given, answered):
        assert (row["detail"]["verb"], row["detail"]["seq"]) == ("status", 1)
        assert row["detail"]["command"] == ack.command.hex()
    assert scene.rack.events == [("command_done", {"seq": 1, "verb": "status"})]
    assert scene.commands.outstanding == 0


async def test_the_row_is_written_before_the_command_goes_out(scene: Scene) -> None:
    heard: list[bytes] = []
    await scene.rack.bus.subscribe(subjects.command(RACK), lambda message: heard.append(message.payload))

    async def refuse(_row: object) -> int:
        raise BusError("the audit cannot be used")

    scene.audit.record = refuse  # type: ignore[assignment, method-assign]
    with pytest.raises(BusError, match="audit"):
        await scene.commands.send(RACK, "status", actor="ops")
    await scene.live.flush()
    await scene.rack.bus.flush()
    assert not heard


async def test_arguments_reach_the_rack_and_no_audit_row(scene: Scene) -> None:
    await scene.rack.start()
    await scene.commands.send(RACK, CommandVerb.PASSPORT, {"Passport": b"with a secret"}, actor="ops")
    assert scene.rack.done[0].args == {"Passport": b"with a secret"}
    rows = json.dumps([await scene.audit_rows(action) for action in ("command", "command_ack")])
    assert "with a secret" not in rows
    assert b"with a secret".hex() not in rows


async def test_an_answer_that_got_lost_is_given_again_and_the_command_done_once(scene: Scene) -> None:
    rack = scene.rack
    rack.publish_ack = lambda data: rack.acks.append(open_ack(data, bytes(rack.key.verify_key)))  # type: ignore[method-assign]
    await rack.start()
    ack = await scene.commands.send(RACK, "status", actor="ops")
    assert ack.result is AckResult.DONE
    assert len(rack.done) == len(rack.acks) == 1


async def test_a_command_nobody_answers_ends_with_a_remedy_and_a_failed_row(scene: Scene) -> None:
    with pytest.raises(CommandUnanswered, match="did not answer command 1") as caught:
        await scene.commands.send(RACK, "status", actor="ops", ttl_s=0.2)
    assert caught.value.remedy
    row = await scene.audited("command", result="failed")
    assert (row["actor"], row["reason"], row["detail"]["seq"]) == ("ops", "unanswered", 1)
    assert scene.commands.outstanding == 0


async def test_a_rack_that_comes_in_time_gets_the_command_that_waits(scene: Scene) -> None:
    sending = asyncio.create_task(scene.commands.send(RACK, "status", actor="ops", ttl_s=20))
    await scene.audited("command")
    await scene.rack.start()
    assert (await sending).result is AckResult.DONE


async def test_commands_to_one_rack_go_in_turn(scene: Scene) -> None:
    running, most = 0, 0

    async def slow(_command: Command) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1

    await scene.rack.start(status=slow)
    acks = await asyncio.gather(*(scene.commands.send(RACK, "status", actor="ops") for _ in range(8)))
    assert sorted(ack.seq for ack in acks) == list(range(1, 9))
    assert {ack.result for ack in acks} == {AckResult.DONE}
    assert most == 1


async def test_too_many_waiting_commands_are_refused(scene: Scene) -> None:
    waiting = [
        asyncio.create_task(scene.commands.send(RACK, "status", actor="ops", ttl_s=0.05))
        for _ in range(QUICK.commands_waiting_per_rack)
    ]
    await asyncio.sleep(0)
    with pytest.raises(BusError, match="wait for rack"):
        await scene.commands.send(RACK, "status", actor="ops")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_two_mixers_never_give_one_number_twice(scene: Scene) -> None:
    await scene.rack.start()
    second = Commands(
        bus=await scene.bus.live(), authority=scene.bus.cluster.keys.authority, cluster=scene.bus.cluster.name,
        registry=scene.registry, audit=scene.audit, limits=QUICK,
    )  # fmt: skip
    await second.start()
    try:
        acks = await asyncio.gather(
            *(mixer.send(RACK, "status", actor="ops", ttl_s=5) for mixer in (scene.commands, second) * 5)
        )
    finally:
        await second.stop()
    assert sorted(ack.seq for ack in acks) == list(range(1, 11))
    numbers = [command.seq for command in scene.rack.done]
    assert numbers == sorted(set(numbers))


async def test_a_rack_that_is_unknown_or_removed_is_not_commanded(scene: Scene) -> None:
    with pytest.raises(InputError, match="no rack"):
        await scene.commands.send("stage-right", "status", actor="ops")
    await scene.change(removed_at=5)
    with pytest.raises(InputError, match="removed"):
        await scene.commands.send(RACK, "status", actor="ops")
    for ttl_s in (0, -1, 86_401):
        with pytest.raises(InputError, match="cannot live"):
            await scene.commands.send(RACK, "status", actor="ops", ttl_s=ttl_s)


# Acks that are not


async def test_an_ack_by_another_key_is_refused_and_the_true_one_still_counts(scene: Scene) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    rack = scene.rack.bus
    await rack.subscribe(subjects.command(RACK), lambda message: heard.put_nowait(message.payload))
    sending = asyncio.create_task(scene.commands.send(RACK, "status", actor="ops"))
    outgoing = Outgoing(Command.decode(envelope.split(await heard.get())[0]), b"")
    true = Ack(scene.bus.cluster.name, RACK, outgoing.command.seq, outgoing.digest, BOOT, 1, AckResult.DONE)
    for data in (
        true.seal(SigningKey.generate()),
        replace(true, rack="stage-right").seal(scene.rack.key),
        replace(true, command=bytes(32)).seal(scene.rack.key),
        envelope.seal(envelope.DOMAIN_WAL, true.encode(), scene.rack.key),
        b"garbage",
    ):
        rack.publish(subjects.ack(RACK), data)
    for reason in ("signature", "other_rack", "unknown_command", "malformed"):
        row = await scene.audited("command_ack", reason=reason)
        assert (row["result"], row["actor"]) == ("refused", f"rack:{RACK}")
    assert not sending.done()
    rack.publish(subjects.ack(RACK), true.seal(scene.rack.key))
    assert await sending == true


@pytest.mark.parametrize("which", ["pending", "earlier"])
async def test_an_ack_counts_by_any_key_of_the_rack(scene: Scene, which: str) -> None:
    other = SigningKey.generate()
    if which == "earlier":
        await scene.change(
            earlier_keys=(bytes(scene.rack.key.verify_key),), rack_public=bytes(other.verify_key)
        )
    else:
        await scene.change(pending=pending(bytes(other.verify_key)))
        scene.rack.key = other
    await scene.rack.start()
    assert (await scene.commands.send(RACK, "status", actor="ops")).result is AckResult.DONE


# Passports by command


async def test_deliveries_that_come_together_are_one_command(scene: Scene) -> None:
    await scene.rack.start()
    own = bytes(scene.rack.key.verify_key)
    await scene.change(pending=pending(own))
    delivery = PassportDelivery(
        commands=scene.commands,
        registry=scene.registry,
        pending_passport=lambda entry: b"passport %d" % entry.pending.serial if entry.pending else None,
    )
    for _ in range(10):
        delivery.deliver(RACK)
    await delivery.idle()
    assert [command.args for command in scene.rack.done] == [{"Passport": b"passport 2"}]
    await scene.change(pending=pending(own, 3))
    delivery.deliver(RACK)
    await delivery.idle()
    assert scene.rack.done[-1].args == {"Passport": b"passport 3"}
    await scene.change(pending=None)
    delivery.deliver(RACK)
    delivery.deliver("stage-right")
    await delivery.idle()
    assert len(scene.rack.done) == 2
    await delivery.stop()


async def test_an_issue_that_comes_during_a_delivery_is_delivered_too(scene: Scene) -> None:
    own = bytes(scene.rack.key.verify_key)

    async def take(command: Command) -> None:
        scene.rack.done.append(command)
        if len(scene.rack.done) == 1:
            await scene.change(pending=pending(own, 3))
            delivery.deliver(RACK)

    delivery = PassportDelivery(
        commands=scene.commands,
        registry=scene.registry,
        pending_passport=lambda entry: b"%d" % entry.pending.serial if entry.pending else None,
    )
    await scene.rack.start(passport=take)
    await scene.change(pending=pending(own))
    delivery.deliver(RACK)
    await delivery.idle()
    assert [command.args["Passport"] for command in scene.rack.done] == [b"2", b"3"]


async def test_a_delivery_to_a_rack_that_is_away_ends_quietly_and_stop_ends_the_rest(scene: Scene) -> None:
    await scene.change(pending=pending(bytes(32)))
    delivery = PassportDelivery(
        commands=scene.commands, registry=scene.registry, pending_passport=lambda _entry: b"p"
    )
    delivery.deliver(RACK)
    await scene.audited("command")
    await delivery.stop()
    assert scene.commands.outstanding == 0
