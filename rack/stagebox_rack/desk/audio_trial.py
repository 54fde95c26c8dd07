"""An audio module, run by a rack's host on audio from a file or made here, as fast as it goes.

The blocks go through the same chain as in a rack. Two rules that are of real time are kept by the report and not by the
host, so that a run's outcome is the module's and not the machine's: how long a block may be waited for, and how many
records a second a module may emit.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile

from stagebox.errors import StorageError
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox_rack.desk.audio_input import BLOCKS_PER_SECOND, AudioInput
from stagebox_rack.desk.candidate import Candidate
from stagebox_rack.desk.levels import RunLevels
from stagebox_rack.desk.limits import LIMITS
from stagebox_rack.desk.observed import Observed
from stagebox_rack.limits import LIMITS as RACK
from stagebox_rack.metering.levels import Float32
from stagebox_rack.modules.hosting.chain import Chain
from stagebox_rack.modules.hosting.feed import Feed
from stagebox_rack.modules.hosting.hosted import InsertState, InsertStatus, PlacedModule
from stagebox_rack.modules.hosting.hosts import ModuleHosts
from stagebox_rack.modules.hosting.patience import Patience

INSERT = "desk"
_NS = 1_000_000_000

Progress = Callable[[int, int], None]


@dataclass
class AudioOutcome:
    """What came of a run."""

    observed: Observed
    before: RunLevels
    after: RunLevels


class AudioTrial:
    """One run; ``progress`` is called with blocks done and blocks in all, from a thread of its own."""

    def __init__(
        self, candidate: Candidate, audio: AudioInput, out: Path | None, progress: Progress | None
    ) -> None:
        self._candidate = candidate
        self._audio = audio
        self._out = out
        self._progress = progress
        self._stop = threading.Event()
        self._rack = Patience(RACK.module_wait_share, RACK.module_wait_credit)
        self._outcome = AudioOutcome(Observed(), RunLevels(audio.channels), RunLevels(audio.channels))

    async def run(self) -> AudioOutcome:
        """Run everything through the module, and end its host.

        Raises:
            InputError: the audio cannot be read, or the output is there already.
            StorageError: the output cannot be written.
        """
        observed = self._outcome.observed
        hosts = ModuleHosts(1, observed.take)
        await hosts.start()
        try:
            chain = hosts.open_chain("desk", self._audio.rate, self._audio.channels)
            chain.patience = Patience(1.0, LIMITS.wait_s)
            placed = for_desk(self._candidate)
            await hosts.arrange(chain, [placed])
            async with asyncio.timeout(LIMITS.ready_s):
                observed.status = (await hosts.settled(chain))[INSERT]
            if observed.status.state is InsertState.RUNNING:
                await self._through(chain)
                observed.status = await last_status(hosts, chain, placed, len(observed.trip_ns))
        finally:
            await hosts.stop()
        return self._outcome

    async def _through(self, chain: Chain) -> None:
        worker = asyncio.create_task(asyncio.to_thread(self._blocks, chain))
        try:
            await asyncio.shield(worker)
        finally:
            # A thread cannot be cancelled; it sees this between two blocks.
            self._stop.set()
            await asyncio.wait([worker])

    def _blocks(self, chain: Chain) -> None:
        observed, rate = self._outcome.observed, self._audio.rate
        begun, first_ns, pace = time.monotonic(), time.time_ns(), EmitPace(observed, self._stop)
        size = rate // BLOCKS_PER_SECOND
        count = -(-self._audio.frames // size)
        start = 0
        with _writing(self._out, self._audio, self._stop) as write:
            for block in self._audio.blocks():
                if self._stop.is_set():
                    return
                _await_answer(chain)
                pace.wait()
                made = self._one(chain, block, start, first_ns + start * _NS // rate)
                self._outcome.before.add(block)
                self._outcome.after.add(made)
                write(made)
                start += len(block)
                if self._progress is not None:
                    self._progress(observed.offered, count)
        observed.wall_s = time.monotonic() - begun

    def _one(self, chain: Chain, block: Float32, start: int, time_ns: int) -> Float32:
        observed = self._outcome.observed
        observed.offered += 1
        past, burnt = chain.counters.bypassed, chain.fuel
        begun = time.perf_counter_ns()
        made = chain.process(block, start=start, time_ns=time_ns)
        took = time.perf_counter_ns() - begun
        if chain.counters.bypassed > past:
            observed.passed += 1
        else:
            observed.trip_ns.append(took)
            if took > self._rack.left * _NS:
                observed.late += 1
            self._rack.spend(min(took / _NS, self._rack.left), len(block) / chain.rate)
            observed.fuel.append(chain.fuel - burnt)
        return made


def for_desk(candidate: Candidate) -> PlacedModule:
    """Return it with the host's rate of records opened wide: that rate is of real time, and this run is not."""
    wide = replace(candidate.limits, records_per_s=FORMAT.records_per_s)
    return PlacedModule(INSERT, candidate.hosted(wide))


class EmitPace:
    """Holds a run back while its module says more than a host takes in real time."""

    def __init__(self, observed: Observed, stop: threading.Event) -> None:
        self._observed = observed
        self._stop = stop
        self._begun = time.monotonic()

    def wait(self) -> None:
        """Return when the next block or record may be given."""
        per_s = FORMAT.records_per_s / 2
        early = (self._observed.emitted - per_s / 2) / per_s - (time.monotonic() - self._begun)
        if early > 0:
            self._stop.wait(early)


def _await_answer(chain: Chain) -> None:
    """Wait for an answer that came too late for its block, or every block after it went past the module too."""
    while (
        chain.silent_for(time.monotonic()) and chain.silent_for(time.monotonic()) < RACK.module_host_silence
    ):
        time.sleep(LIMITS.answer_s)


async def last_status(
    hosts: ModuleHosts, place: Chain | Feed, placed: PlacedModule, blocks: int
) -> InsertStatus:
    """Return the status when it tells of every block."""
    end = time.monotonic() + LIMITS.tally_s
    while True:
        found = hosts.status()[INSERT]
        if found.blocks >= blocks or time.monotonic() > end:
            return found
        await asyncio.sleep(LIMITS.look_s)
        # A host that has nothing to do does not count either: this wakes it.
        await hosts.arrange(place, [placed])


@contextmanager
def _writing(
    out: Path | None, audio: AudioInput, stop: threading.Event
) -> Iterator[Callable[[Float32], None]]:
    """Give a function that appends to a new WAV file of float32, or does nothing.

    A file that is not whole, because the run was stopped or failed, does not stay.
    """
    if out is None:
        yield lambda samples: None
        return
    try:
        # libsndfile calls everything that it cannot make a system error.
        out.open("xb").close()
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}") from None
    whole = False
    try:
        with soundfile.SoundFile(
            str(out), "w", samplerate=audio.rate, channels=audio.channels, format="WAV", subtype="FLOAT"
        ) as file:
            yield file.write
        whole = not stop.is_set()
    except soundfile.SoundFileError as error:
        raise StorageError(f"cannot write {out}: {error}") from None
    finally:
        if not whole:
            out.unlink(missing_ok=True)
