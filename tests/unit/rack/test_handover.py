from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

from stagebox_rack.handover import Handover


def run_threads(*work: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=item) for item in work]
    for thread in threads:
        thread.start()
    return threads


async def test_items_of_each_thread_come_out_on_the_loop_in_their_order() -> None:
    loop, seen, done = asyncio.get_running_loop(), list[tuple[int, int]](), asyncio.Event()
    owners: set[int] = set()
    count, producers = 2000, 4

    def take(item: tuple[int, int]) -> None:
        owners.add(threading.get_ident())
        seen.append(item)
        if len(seen) == count * producers:
            done.set()

    handover = Handover(loop, take, max_items=count * producers)

    def produce(name: int) -> None:
        for number in range(count):
            handover.put((name, number))

    threads = run_threads(*(partial(produce, name) for name in range(producers)))
    await asyncio.wait_for(done.wait(), 10)
    for thread in threads:
        thread.join()
    assert owners == {threading.get_ident()}
    assert handover.dropped == 0
    for name in range(producers):
        assert [number for owner, number in seen if owner == name] == list(range(count))


async def test_a_full_handover_drops_the_newest_counts_it_and_never_blocks() -> None:
    seen: list[int] = []
    handover = Handover[int](asyncio.get_running_loop(), seen.append, max_items=3)
    for number in range(10):
        handover.put(number)
    assert handover.dropped == 7
    await asyncio.sleep(0)
    assert seen == [0, 1, 2]
    handover.put(10)
    await asyncio.sleep(0)
    assert (seen, handover.dropped) == ([0, 1, 2, 10], 7)


async def test_whatever_threads_put_is_either_taken_or_counted() -> None:
    seen: list[int] = []
    handover = Handover[int](asyncio.get_running_loop(), seen.append, max_items=50)
    start = threading.Barrier(4)

    def produce() -> None:
        start.wait()
        for number in range(20_000):
            handover.put(number)

    threads = run_threads(produce, produce, produce, produce)
    while any(thread.is_alive() for thread in threads):  # noqa: ASYNC110 - the loop must keep draining
        await asyncio.sleep(0)
    handover.drain()
    assert len(seen) + handover.dropped == 80_000


async def test_draining_takes_what_the_loop_has_not_yet_taken() -> None:
    seen: list[int] = []
    handover = Handover[int](asyncio.get_running_loop(), seen.append, max_items=10)
    handover.put(1)
    handover.drain()
    assert seen == [1]
    await asyncio.sleep(0)
    assert seen == [1]


async def test_an_item_that_cannot_be_taken_does_not_hold_back_the_others() -> None:
    seen: list[int] = []

    def take(item: int) -> None:
        if item == 2:
            raise RuntimeError("not this one")
        seen.append(item)

    loop = asyncio.get_running_loop()
    failures: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _loop, context: failures.append(context))
    handover = Handover[int](loop, take, max_items=10)
    for number in (1, 2, 3):
        handover.put(number)
    for _ in range(3):
        await asyncio.sleep(0)
    assert seen == [1, 3]
    assert len(failures) == 1
