"""A lease is renewed in time, survives a mixer that is away for less than its life, and is given back."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stagebox.errors import BusError, StageboxError, VerificationError
from stagebox.listening import lease as lease_module
from stagebox.listening.lease import LeaseHolder
from stagebox.listening.limits import LISTEN_LIMITS

LIMITS = dataclasses.replace(LISTEN_LIMITS, lease_ttl_s=1, lease_renew_share=0.05, lease_retry_s=0.02)
Step = StageboxError | None


class FakeApi:
    """A mixer's API: what it answers to the n-th request is a test's choice."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.released: list[str] = []
        self.closed = 0
        self.fails: Callable[[int], Step] = lambda number: None
        self.more = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def __call__(self, mixer: str, identity: Path) -> FakeApi:
        return self

    def __exit__(self, *args: object) -> None:
        self.closed += 1

    def listen(self, rack: str, bus: str, ttl_s: int, lease: str | None) -> dict[str, Any]:
        self.asked.append(lease)
        self.loop.call_soon_threadsafe(self.more.set)
        error = self.fails(len(self.asked))
        if error is not None:
            raise error
        return {"lease": "ab" * 16}

    def release(self, rack: str, bus: str, lease: str) -> None:
        self.released.append(lease)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.asked) < count:
                self.more.clear()
                await self.more.wait()


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    made = FakeApi()
    monkeypatch.setattr(lease_module, "MixerApi", made)
    return made


def holder() -> LeaseHolder:
    return LeaseHolder("https://localhost:8443", Path("ops"), "left", "main", LIMITS)


async def test_a_lease_is_renewed_by_its_id_and_given_back(api: FakeApi) -> None:
    held = holder()
    await held.take()
    await api.until(4)
    assert api.asked[:4] == [None, *["ab" * 16] * 3]
    await held.release()
    assert (api.released, api.closed) == (["ab" * 16], 1)
    assert not held.lost.is_set()


async def test_a_refusal_is_raised_and_nothing_is_held(api: FakeApi) -> None:
    api.fails = lambda number: VerificationError("no")
    held = holder()
    with pytest.raises(VerificationError):
        await held.take()
    await held.release()
    assert (api.released, api.closed) == ([], 1)


async def test_a_mixer_that_is_away_for_less_than_the_leases_life_costs_nothing(api: FakeApi) -> None:
    api.fails = lambda number: BusError("away") if 2 <= number <= 6 else None
    held = holder()
    await held.take()
    await api.until(8)
    assert not held.lost.is_set()
    await held.release()


async def test_a_mixer_that_stays_away_ends_the_lease_with_its_reason(api: FakeApi) -> None:
    api.fails = lambda number: BusError("away") if number > 1 else None
    held = holder()
    await held.take()
    async with asyncio.timeout(5):
        await held.lost.wait()
    assert isinstance(held.failure, BusError)
    assert len(api.asked) > 5, "it tried again and again until the lease had ended"
    await held.release()


async def test_a_renewal_that_is_refused_ends_it_at_once(api: FakeApi) -> None:
    api.fails = lambda number: VerificationError("banned") if number > 1 else None
    held = holder()
    await held.take()
    async with asyncio.timeout(5):
        await held.lost.wait()
    assert isinstance(held.failure, VerificationError)
    assert len(api.asked) == 2
    await held.release()


async def test_a_mixer_that_cannot_be_told_does_not_hinder_the_end(api: FakeApi) -> None:
    def gone(rack: str, bus: str, lease: str) -> None:
        raise BusError("away")

    held = holder()
    await held.take()
    api.release = gone  # type: ignore[method-assign]
    await held.release()
    assert api.closed == 1
