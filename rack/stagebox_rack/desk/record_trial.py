"""A telemetry module, run by a rack's host on records from an export or measured here, as fast as it takes them."""

from __future__ import annotations

import asyncio
import threading
import time

from stagebox.subjects import Kind
from stagebox_rack.desk.audio_trial import INSERT, EmitPace, Progress, for_desk, last_status
from stagebox_rack.desk.candidate import Candidate
from stagebox_rack.desk.limits import LIMITS
from stagebox_rack.desk.observed import Observed
from stagebox_rack.desk.record_input import RecordInput, RecordItem
from stagebox_rack.limits import LIMITS as RACK
from stagebox_rack.modules.hosting.feed import ALERT, EVENT, METER, Feed
from stagebox_rack.modules.hosting.hosted import InsertState
from stagebox_rack.modules.hosting.hosts import ModuleHosts

_NUMBERS = {Kind.METER: METER, Kind.EVENT: EVENT, Kind.ALERT: ALERT}


class RecordTrial:
    """One run; ``progress`` is called with records done and records in all."""

    def __init__(self, candidate: Candidate, records: RecordInput, progress: Progress | None) -> None:
        self._candidate = candidate
        self._records = records
        self._progress = progress
        self._stop = threading.Event()
        self._observed = Observed()

    async def run(self) -> Observed:
        """Give every record to the module, and end its host.

        Raises:
            InputError: the records cannot be read.
        """
        observed = self._observed
        hosts = ModuleHosts(1, observed.take)
        await hosts.start()
        try:
            feed = hosts.open_feed("desk")
            placed = for_desk(self._candidate)
            await hosts.arrange(feed, [placed])
            async with asyncio.timeout(LIMITS.ready_s):
                observed.status = (await hosts.settled(feed))[INSERT]
            if observed.status.state is InsertState.RUNNING:
                worker = asyncio.create_task(asyncio.to_thread(self._offer_all, feed))
                try:
                    await asyncio.shield(worker)
                finally:
                    self._stop.set()
                    await asyncio.wait([worker])
                observed.status = await last_status(hosts, feed, placed, observed.offered - observed.passed)
        finally:
            await hosts.stop()
        return observed

    def _offer_all(self, feed: Feed) -> None:
        observed, begun = self._observed, time.monotonic()
        pace = EmitPace(observed, self._stop)
        for item in self._records.records():
            if self._stop.is_set():
                return
            pace.wait()
            observed.offered += 1
            if not self._offer(feed, item):
                observed.passed += 1
            if self._progress is not None:
                self._progress(observed.offered, self._records.count)
        observed.wall_s = time.monotonic() - begun

    def _offer(self, feed: Feed, item: RecordItem) -> bool:
        """Wait while the host is busy with those before: on a desk nothing has to be dropped for that."""
        if len(item.subject.encode()) + len(item.data) > RACK.module_feed_record_bytes:
            return False
        end = time.monotonic() + RACK.module_host_silence
        while not feed.offer(_NUMBERS[item.kind], item.subject, item.data):
            if self._stop.wait(LIMITS.offer_s) or time.monotonic() > end or not feed.live:
                return False
        return True
