"""Files from the mixer: piece by piece, each under a signed answer to its own question, and whole or not at all."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from nacl.signing import SigningKey

from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import Insert, Point
from stagebox_rack.asking import MixerDesk
from stagebox_rack.modules.fetching import FetchError, ModuleFetcher
from support.issuer import Issuer
from support.module_scene import ISSUER, QUICK, Mixer, insert

OTHER_KEY = SigningKey(bytes([9]) * 32)
PIECE = FORMAT.module_chunk_bytes
DATA = random.Random(6).randbytes(2 * PIECE + 1000)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Issuer.enroll(ISSUER, tmp_path_factory.mktemp("rack") / "state").open().main


class Bench:
    def __init__(self, identity: Any) -> None:
        self.mixer = Mixer()
        self.heard: list[int] = []
        desk = MixerDesk(
            self.mixer, lambda: identity, timeout=30.0, heard=self.heard.append, wall_ns=lambda: 7
        )
        self.fetcher = ModuleFetcher(desk, limits=QUICK, random=random.Random(1))

    async def fetch(self, asked: Insert | None = None) -> bytes:
        return await self.fetcher.fetch(asked or insert(DATA), wanted=lambda: True)

    async def refusal(self, asked: Insert | None = None) -> str:
        with pytest.raises(FetchError) as caught:
            await self.fetch(asked)
        return caught.value.code


@pytest.fixture
def bench(identity: Any) -> Bench:
    made = Bench(identity)
    made.mixer.has(DATA)
    return made


async def test_a_file_comes_whole_in_pieces(bench: Bench) -> None:
    bench.mixer.time_ns = 99
    assert await bench.fetch() == DATA
    assert bench.mixer.pieces() == [0, PIECE, 2 * PIECE]
    assert bench.heard == [99, 99, 99]


async def test_a_piece_that_is_lost_is_asked_for_again_and_the_others_are_not(bench: Bench) -> None:
    bench.mixer.failing = 2
    assert await bench.fetch() == DATA
    assert bench.mixer.pieces() == [0, 0, 0, PIECE, 2 * PIECE]


async def test_a_mixer_that_does_not_answer_is_asked_a_bounded_number_of_times(bench: Bench) -> None:
    bench.mixer.failing = 100
    assert await bench.refusal() == "unreachable"
    assert len(bench.mixer.pieces()) == QUICK.module_fetch_tries


@pytest.mark.parametrize("code", ["unknown_module", "revoked", "not_assigned"])
async def test_what_the_mixer_refuses_is_not_asked_for_again(bench: Bench, code: str) -> None:
    bench.mixer.reply["module"] = {"error": code, "message": "no"}
    assert await bench.refusal() == code
    assert len(bench.mixer.pieces()) == 1


@pytest.mark.parametrize(
    "forgery",
    [
        {"key": OTHER_KEY},
        {"request": bytes(32)},
        {"rack": "stage-right"},
        {"verb": "patch"},
        {"cluster": "other"},
    ],
)
async def test_a_forged_piece_counts_for_nothing_and_tells_no_time(
    bench: Bench, forgery: dict[str, Any]
) -> None:
    bench.mixer.reply["module"] = forgery
    bench.mixer.time_ns = 99
    assert await bench.refusal() == "unreachable"
    assert bench.heard == []


async def test_an_answer_to_an_earlier_question_fits_no_later_one(bench: Bench) -> None:
    replayed = None
    genuine = bench.mixer.request

    async def request(subject: str, payload: bytes, *, timeout: float) -> Any:
        nonlocal replayed
        if replayed is None:
            replayed = await genuine(subject, payload, timeout=timeout)
        return replayed

    bench.mixer.request = request  # type: ignore[method-assign]
    assert await bench.refusal() == "unreachable"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "malformed"),
        ({"Size": len(DATA), "Data": "text"}, "malformed"),
        ({"Size": len(DATA), "Data": b""}, "malformed"),
        ({"Size": len(DATA), "Data": bytes(PIECE + 1)}, "malformed"),
        ({"Size": -1, "Data": b"x"}, "malformed"),
        ({"Size": len(DATA) + 1, "Data": b"x"}, "wrong_size"),
    ],
)
async def test_an_answer_that_is_no_piece_of_that_file_ends_the_fetch(
    bench: Bench, body: dict[str, Any], code: str
) -> None:
    bench.mixer.reply["module"] = {"body": body}
    assert await bench.refusal() == code


async def test_more_than_the_file_is_never_taken(bench: Bench) -> None:
    small = Insert("eq", "gain", "1.0.0", bytes(32), 10, Point.TAP, "main")
    bench.mixer.reply["module"] = {"body": {"Size": 10, "Data": bytes(11)}}
    assert await bench.refusal(small) == "malformed"


async def test_a_file_that_is_not_wanted_any_more_is_given_up_at_its_next_piece(bench: Bench) -> None:
    with pytest.raises(FetchError) as caught:
        await bench.fetcher.fetch(insert(DATA), wanted=lambda: not bench.mixer.pieces())
    assert caught.value.code == "not_wanted"
    assert bench.mixer.pieces() == [0]


async def test_a_fetch_may_be_cancelled_at_any_moment(bench: Bench) -> None:
    bench.mixer.open.clear()
    fetching = asyncio.create_task(bench.fetch())
    async with asyncio.timeout(5):
        while not bench.mixer.pieces():  # noqa: ASYNC110 - the fake has no event for it
            await asyncio.sleep(0)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    bench.mixer.open.set()
    assert await bench.fetch() == DATA


async def test_a_bus_that_is_down_is_an_error_like_any_other(bench: Bench) -> None:
    bench.mixer.connected = False
    assert await bench.refusal() == "unreachable"
