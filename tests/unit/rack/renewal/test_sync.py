"""What a rack reports, and what it keeps of the answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nacl.signing import SigningKey

from stagebox.bus import BusClient, BusMessage
from stagebox.certificates import to_der
from stagebox.control.denylist import DenyList
from stagebox.control.request import ReceivedRequest
from stagebox.control.sync import SyncAnswer, SyncReport
from stagebox.errors import BusError, StageboxError
from stagebox_rack.commands.service import CommandService
from stagebox_rack.identity.credentials import Credentials
from stagebox_rack.identity.denied import DenyListWitness
from stagebox_rack.identity.takeover import Takeover
from stagebox_rack.renewal.service import RenewalService
from stagebox_rack.renewal.sync import SyncService
from support.issuer import CLUSTER, Issuer

OTHER = SigningKey(bytes([9]) * 32)


class Mixer:
    """Answers on the bus as a test wants it; keeps what was asked."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.asked: list[tuple[str, ReceivedRequest]] = []
        self.answer = SyncAnswer()
        self.reply: dict[str, Any] = {}
        self.connected = True

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> BusMessage:
        received = ReceivedRequest.parse(payload)
        self.asked.append((subject, received))
        body = self.answer.body() if received.request.verb == "sync" else {}
        given = {"body": body, "time_ns": 77, **self.reply}
        return BusMessage("", self.issuer.reply(payload, **given), "", None)


class Bench:
    def __init__(self, directory: Path) -> None:
        self.issuer = Issuer()
        self.held = self.issuer.enroll(directory).open()
        self.mixer = Mixer(self.issuer)
        self.witness = DenyListWitness(
            directory / "denied.flux", cluster=CLUSTER, cluster_public=self.issuer.public
        )
        self.synced: list[tuple[int, int]] = []
        credentials = Credentials(self.held)

        async def synced(command: int, time_ns: int) -> None:
            self.synced.append((command, time_ns))

        self.service = SyncService(
            bus=cast(BusClient, self.mixer),
            takeover=cast(Takeover, SimpleNamespace(credentials=credentials, held=self.held)),
            witness=self.witness,
            commands=cast(CommandService, SimpleNamespace(highest=12, synced=synced)),
            renewal=cast(RenewalService, SimpleNamespace(problem="too_soon")),
            managed_by="operator",
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")


async def test_a_report_says_where_the_rack_stands_under_its_own_signature(bench: Bench) -> None:
    bench.witness.offer(bench.issuer.deny_list(4))
    await bench.service.sync()
    ((subject, received),) = bench.mixer.asked
    assert subject == "rack.stage-left.req.sync"
    received.verify(bench.held.main.public)
    report = SyncReport.from_body(received.request.body)
    chain = tuple(to_der(bench.held.main.chain))
    assert report == SyncReport(1, "active", 12, 4, chain, "operator", "too_soon")


async def test_a_newer_deny_list_is_kept_and_ours_is_given_back_when_asked(bench: Bench) -> None:
    bench.mixer.answer = SyncAnswer(deny_list=bench.issuer.deny_list(5), command=3)
    await bench.service.sync()
    assert bench.witness.epoch == 5
    assert bench.synced == [(3, 77)]
    bench.mixer.answer = SyncAnswer(want_deny_list=True)
    await bench.service.sync()
    subject, received = bench.mixer.asked[-1]
    assert subject == "rack.stage-left.req.deny-list"
    assert received.request.body == {"List": bench.issuer.deny_list(5)}


@pytest.mark.parametrize(
    "forgery",
    [
        {"key": OTHER},
        {"request": bytes(32)},
        {"rack": "stage-right"},
        {"verb": "renew"},
        {"cluster": "other"},
    ],
)
async def test_a_forged_answer_counts_for_nothing_even_if_it_brings_a_genuine_list(
    bench: Bench, forgery: dict[str, Any]
) -> None:
    bench.mixer.answer = SyncAnswer(deny_list=bench.issuer.deny_list(5), command=99)
    bench.mixer.reply = forgery
    with pytest.raises(StageboxError):
        await bench.service.sync()
    assert (bench.witness.epoch, bench.synced, bench.service.completed) == (0, [], 0)


async def test_a_refusal_is_an_error_and_changes_nothing(bench: Bench) -> None:
    bench.mixer.reply = {"error": "removed", "message": "rack 'stage-left' was removed"}
    with pytest.raises(BusError, match="was removed"):
        await bench.service.sync()
    assert bench.synced == []


async def test_a_genuine_answer_with_a_forged_list_keeps_the_list_held(bench: Bench) -> None:
    bench.witness.offer(bench.issuer.deny_list(4))
    bench.mixer.answer = SyncAnswer(deny_list=bench.issuer.deny_list(9, key=OTHER))
    with pytest.raises(StageboxError):
        await bench.service.sync()
    assert bench.witness.data == bench.issuer.deny_list(4)


async def test_a_mixer_without_a_list_settles_a_damaged_one_and_a_forged_answer_does_not(
    bench: Bench,
) -> None:
    bench.witness._path.write_bytes(b"damaged")
    bench.witness.load()
    bench.mixer.reply = {"key": OTHER}
    with pytest.raises(StageboxError):
        await bench.service.sync()
    found = [bench.witness.list]
    bench.mixer.reply = {}
    await bench.service.sync()
    found.append(bench.witness.list)
    assert found == [None, DenyList(CLUSTER)]
