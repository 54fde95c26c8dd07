from __future__ import annotations

import asyncio
from functools import partial

from stagebox.bus.message import BusMessage
from stagebox.bus.subscription import Callback, Subscription


def subscription(callback: Callback | None = None, *, messages: int = 100, size: int = 1000) -> Subscription:
    return Subscription("a.>", callback, queue="", max_messages=messages, max_bytes=size)


async def test_a_slow_consumer_overruns_by_count_and_by_bytes_and_both_are_counted() -> None:
    by_count = subscription(messages=3)
    for index in range(10):
        by_count.deliver(BusMessage("a", b"%d" % index))
    by_bytes = subscription(size=10)
    for _ in range(5):
        by_bytes.deliver(BusMessage("a", b"1234"))
    assert (by_count.received, by_count.overruns, by_count.pending) == (10, 7, 3)
    assert (by_bytes.received, by_bytes.overruns, by_bytes.pending) == (5, 3, 2)
    await by_count.end()
    assert [message.payload async for message in by_count] == [b"0", b"1", b"2"]


async def test_consuming_makes_room_again() -> None:
    sub = subscription(size=4)
    for _ in range(3):
        sub.deliver(BusMessage("a", b"1234"))
        assert (await anext(aiter(sub))).payload == b"1234"
    assert sub.overruns == 0


async def test_a_plain_callback_runs_at_once_and_its_error_is_counted_not_raised() -> None:
    def fail(_message: BusMessage) -> None:
        raise ValueError("consumer bug")

    sub = subscription(fail)
    sub.deliver(BusMessage("a", b""))
    sub.deliver(BusMessage("a", b""))
    assert sub.callback_errors == 2


async def test_a_coroutine_callback_survives_its_own_errors_and_ends_with_the_subscription() -> None:
    seen: list[bytes] = []
    done = asyncio.Event()

    async def consume(_tag: str, message: BusMessage) -> None:
        seen.append(message.payload)
        if message.payload == b"1":
            raise ValueError("consumer bug")
        if message.payload == b"2":
            done.set()

    sub = subscription(partial(consume, "tag"))
    for index in range(3):
        sub.deliver(BusMessage("a", b"%d" % index))
    await asyncio.wait_for(done.wait(), 2)
    await sub.end()
    assert seen == [b"0", b"1", b"2"] and sub.callback_errors == 1
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "bus-consumer"]


async def test_nothing_is_delivered_after_the_end() -> None:
    sub = subscription()
    waiting = asyncio.create_task(anext(aiter(sub), None))
    await asyncio.sleep(0)
    await sub.end()
    assert await asyncio.wait_for(waiting, 1) is None
    sub.deliver(BusMessage("a", b""))
    assert sub.received == 0
