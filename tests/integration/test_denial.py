"""Bans are kept where no restored registry, disk or mixer can lose them, and never without a record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stagebox.bus import Cause
from stagebox.control.denylist import DenyList, denied, open_deny_list
from stagebox.envelope import DOMAIN_DENY_LIST
from stagebox.errors import BusError, InputError, StorageError, VerificationError
from stagebox_mixer.denial import DeniedError
from stagebox_mixer.denial.record import Record
from stagebox_mixer.denial.witness import FILE, Witness
from stagebox_mixer.streams import DENIED_BUCKET
from support.cluster import Cluster, make_cluster
from support.gate import Gate, running_gate
from support.rackside import refusal

ADMIN = "spiffe://flux-test/client/admin/test-admin"


@pytest.fixture
async def gate(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Gate]:
    async with running_gate(cluster, tmp_path) as running:
        yield running


async def deny_rack(gate: Gate, name: str) -> DenyList:
    return await gate.denials.deny("rack", name, reason="stolen", actor=ADMIN)


# Where the list is kept


async def test_a_ban_is_audited_with_reason_and_actor_before_it_is_in_effect(gate: Gate) -> None:
    after = await deny_rack(gate, "stage-left")
    assert [entry.value for entry in after.entries] == ["stage-left"]
    (row,) = await gate.rows(action="deny")
    assert (row["actor"], row["subject"], row["reason"]) == (ADMIN, "rack:stage-left", "stolen")
    note = (await gate.denials.notes())["rack:stage-left"]
    assert (note.reason, note.actor, note.at) == ("stolen", ADMIN, after.entries[0].since)
    assert open_deny_list(await gate.denials.signed(), gate.cluster.keys.authority.public) == after
    with pytest.raises(DeniedError) as caught:
        await gate.denials.check(rack="stage-left")
    assert caught.value.code == "denied"
    await gate.denials.check(rack="stage-right", machine_id=1, certificates=("sha256:" + "0" * 64,))
    # Once more holds from then on; that and lifting it are new epochs with rows of their own.
    again = await deny_rack(gate, "stage-left")
    assert (again.epoch, again.entries) == (after.epoch + 1, after.entries)
    assert again.entries[0].since > after.entries[0].since
    cleared = await gate.denials.clear("rack", "stage-left", actor=ADMIN, reason="found")
    assert (cleared.epoch, cleared.entries) == (after.epoch + 2, ())
    assert len(await gate.rows(action="deny")) == 2
    assert [row["reason"] for row in await gate.rows(action="clear")] == ["found"]
    assert await gate.denials.notes() == {}
    with pytest.raises(InputError, match="is not denied"):
        await gate.denials.clear("rack", "stage-left", actor=ADMIN)


async def test_nothing_is_banned_or_lifted_that_cannot_be_audited(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deny_rack(gate, "stage-left")

    async def away(_: object) -> int:
        raise BusError("the audit cannot be used")

    monkeypatch.setattr(gate.audit, "record", away)
    with pytest.raises(BusError, match="the audit"):
        await deny_rack(gate, "stage-right")
    with pytest.raises(BusError, match="the audit"):
        await gate.denials.clear("rack", "stage-left", actor=ADMIN)
    assert [entry.value for entry in (await gate.denials.read()).entries] == ["stage-left"]


async def test_two_mixers_that_ban_at_once_lose_no_ban(gate: Gate, cluster: Cluster, tmp_path: Path) -> None:
    async with running_gate(cluster, tmp_path / "second", started=gate.nodes) as second:
        await asyncio.gather(
            *(deny_rack(mixer, f"rack-{number}") for number, mixer in enumerate((gate, second) * 4))
        )
        for mixer in (gate, second):
            assert len((await mixer.denials.read()).entries) == 8


async def test_a_ban_survives_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    async with running_gate(cluster, tmp_path) as gate:
        rack = await gate.add_rack("stage-left")
        await deny_rack(gate, rack.name)
        nodes = gate.nodes
        async with running_gate(cluster, tmp_path, started=nodes) as again:
            assert (await refusal(rack.options(nodes[0]))).cause is Cause.AUTHORIZATION_REFUSED
            assert (await again.denials.notes())["rack:stage-left"].reason == "stolen"


@pytest.mark.parametrize("how", ["older", "gone"])
async def test_a_registry_restored_from_a_backup_is_healed_from_the_copy_on_disk(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    async with running_gate(cluster, tmp_path) as gate:
        rack = await gate.add_rack("stage-left")
        await deny_rack(gate, "an-older-case")
        backup = await stored(gate)
        after = await deny_rack(gate, rack.name)
        await restore(gate, backup if how == "older" else None)
        # The mixer that runs knows better at once; it puts it right with the next look.
        assert (await gate.denials.read()).epoch == after.epoch
        with pytest.raises(DeniedError):
            await gate.denials.check(rack=rack.name)
        # So does one that starts anew, from the file alone.
        async with running_gate(cluster, tmp_path, started=gate.nodes) as again:
            assert (await again.denials.read()).epoch == after.epoch
            assert Record.decode(await stored(again)).signed == await again.denials.signed()
            (row,) = await again.rows(action="deny_list_restored")
            assert row["detail"] == {
                "from_epoch": 1 if how == "older" else 0, "to_epoch": 2, "source": "witness", "denied": 2,
            }  # fmt: skip
        assert (await refusal(rack.options(gate.nodes[0]))).cause is Cause.AUTHORIZATION_REFUSED


async def test_a_lost_copy_on_disk_is_written_again(gate: Gate, cluster: Cluster, tmp_path: Path) -> None:
    await deny_rack(gate, "stage-left")
    (gate.witness_dir / FILE).unlink()
    async with running_gate(cluster, tmp_path, started=gate.nodes) as again:
        assert (gate.witness_dir / FILE).read_bytes() == await again.denials.signed()


async def test_a_copy_on_disk_that_was_tampered_with_stops_the_mixer(
    gate: Gate, cluster: Cluster, tmp_path: Path
) -> None:
    await deny_rack(gate, "stage-left")
    path = gate.witness_dir / FILE
    genuine = path.read_bytes()
    evil = make_cluster(tmp_path / "evil", cluster.name, datetime.now(UTC))
    forged = evil.keys.authority.seal(DOMAIN_DENY_LIST, DenyList(cluster.name, 9).encode())
    for data in (forged, genuine[:-1] + bytes([genuine[-1] ^ 1]), b"", genuine * 9000):
        path.write_bytes(data)
        with pytest.raises(VerificationError, match=r"denied\.flux"):
            async with running_gate(cluster, tmp_path, started=gate.nodes):
                pass


async def test_a_stored_list_that_was_tampered_with_admits_nobody(gate: Gate, cluster: Cluster) -> None:
    rack = await gate.add_rack("stage-left")
    other = cluster.keys.authority.seal(DOMAIN_DENY_LIST, DenyList("another", 9).encode())
    await put_list(gate, Record(other).encode())
    with pytest.raises(VerificationError, match="of cluster 'another'"):
        await gate.denials.read()
    failure = await refusal(replace(rack.options(gate.nodes[0]), give_up_after=3.0))
    assert failure.cause is not None
    assert gate.callout.admitted == 0


async def test_a_full_disk_keeps_the_ban_and_the_copy_follows_when_it_can(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Witness, signed: bytes) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Witness, "save", full)
        await deny_rack(gate, "stage-left")
        await gate.denials.heal()
    assert not (gate.witness_dir / FILE).exists()
    await gate.denials.heal()
    assert (gate.witness_dir / FILE).read_bytes() == await gate.denials.signed()


# What racks bring back


async def test_a_rack_brings_back_the_ban_that_a_restored_mixer_forgot(gate: Gate) -> None:
    signed = sealed_list(gate, DenyList("flux-test", 6, 1, (denied("rack", "stolen"),)))
    assert gate.denials.wants(6, source="rack-1")
    assert await gate.denials.adopt(signed, source="rack-1")
    assert not gate.denials.wants(6, source="rack-1")
    assert (await gate.denials.read()).epoch == 6
    assert await gate.denials.signed() == signed
    assert (gate.witness_dir / FILE).read_bytes() == signed
    (row,) = await gate.rows(action="deny_list_restored")
    assert (row["actor"], row["reason"]) == ("rack-1", "registry_behind")
    # The same again, or an older one, is no news and no row.
    assert not await gate.denials.adopt(signed, source="rack-2")
    assert not await gate.denials.adopt(sealed_list(gate, DenyList("flux-test", 5, 1, ())), source="rack-3")
    assert len(await gate.rows(action="deny_list_restored")) == 1


async def test_a_rack_brings_a_ban_back_even_to_a_mixer_that_banned_on_meanwhile(
    gate: Gate, tmp_path: Path
) -> None:
    signed = sealed_list(gate, DenyList("flux-test", 1, 1, (denied("rack", "stolen", since=1),)))
    await deny_rack(gate, "a")
    await deny_rack(gate, "b")
    assert gate.denials.wants(1, source="rack-1")
    assert await gate.denials.adopt(signed, source="rack-1")
    found = await gate.denials.read()
    assert {entry.value for entry in found.entries} == {"a", "b", "stolen"}
    assert found.epoch == 3
    # Lifted, it stays lifted, whoever still has it on a list.
    await gate.denials.clear("rack", "stolen", actor=ADMIN)
    assert not await gate.denials.adopt(signed, source="rack-2")
    async with running_gate(gate.cluster, tmp_path, started=gate.nodes) as again:
        assert not await again.denials.adopt(signed, source="rack-2")


async def test_a_list_the_cluster_did_not_sign_is_not_taken(gate: Gate, tmp_path: Path) -> None:
    evil = make_cluster(tmp_path / "evil", gate.cluster.name, datetime.now(UTC))
    forged = evil.keys.authority.seal(DOMAIN_DENY_LIST, DenyList(gate.cluster.name, 9).encode())
    with pytest.raises(VerificationError):
        await gate.denials.adopt(forged, source="rack-1")
    with pytest.raises(VerificationError, match="of cluster 'another'"):
        await gate.denials.adopt(sealed_list(gate, DenyList("another", 9)), source="rack-1")
    assert (await gate.denials.read()).epoch == 0


def sealed_list(gate: Gate, unsigned: DenyList) -> bytes:
    return gate.cluster.keys.authority.seal(DOMAIN_DENY_LIST, unsigned.encode())


async def stored(gate: Gate) -> bytes:
    found = await (await gate.store.js.key_value(DENIED_BUCKET)).get("list")
    assert found.value is not None
    return found.value


async def put_list(gate: Gate, data: bytes) -> None:
    await (await gate.store.js.key_value(DENIED_BUCKET)).put("list", data)


async def restore(gate: Gate, backup: bytes | None) -> None:
    """Put the bucket back as it was, or lose it."""
    if backup is not None:
        await put_list(gate, backup)
    else:
        await (await gate.store.js.key_value(DENIED_BUCKET)).purge("list")
