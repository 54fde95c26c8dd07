"""What runs on this rack: follows the held patch sheet, lets the guard judge every file, and hands over what passed.

One pass at a time brings what runs in line with what is signed: it stops what may not run any more, judges what waits,
and tells the supply what is missing. A pass reads the newest sheet, deny list and time when it begins, and whatever
comes meanwhile makes another one, so nothing is lost and the latest counts. No pass waits for the network: the rack
runs from its library and its held sheet when there is no mixer. A denial waits for no pass, :mod:`.endings` carries it
out beside them.

What is refused is never given to the arranger, so nothing compiles it; it is an alert, once a cause and process.
Nothing that goes wrong here ends the rack or touches its audio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import structlog

from stagebox.control.command import Command, CommandVerb
from stagebox.errors import ModuleError, StageboxError
from stagebox.logs import printable
from stagebox.modules.patch import Insert
from stagebox_rack.commands.service import CommandRefused, Handler
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.modules.arranging import Arranger, Placed, Running
from stagebox_rack.modules.endings import Denials, Endings
from stagebox_rack.modules.judging import Judge, Verdict
from stagebox_rack.modules.sheet_store import SheetRefused, SheetStore
from stagebox_rack.modules.slots import Slot, Slots, SlotState
from stagebox_rack.modules.supply import ModuleSupply
from stagebox_rack.modules.trusted_time import TrustedTime

log = structlog.get_logger()

Report = Callable[[str, dict[str, Any]], None]


class ModuleService:
    """The modules of one running rack; ``active`` is whether its passport lets it run any now."""

    def __init__(
        self,
        *,
        sheets: SheetStore,
        judge: Judge,
        supply: ModuleSupply,
        clock: TrustedTime,
        denials: Denials,
        arranger: Arranger,
        event: Report,
        alert: Report,
        active: bool,
        limits: RackLimits = LIMITS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sheets = sheets
        self._judge = judge
        self._supply = supply
        self._clock = clock
        self._denials = denials
        self._arranger = arranger
        self._event = event
        self._alert = alert
        self._active = active
        self._limits = limits
        self._monotonic = monotonic
        self._slots = Slots(limits.module_bridge, limits.module_bytes)
        self._endings = Endings(
            self._slots, arranger, denials=denials, floors=judge.floors, clock=clock, told=self._ended
        )
        self._arranged: tuple[Placed, ...] | None = ()  # None: not known, the hosts failed
        self._unseated = False  # sources came since
        self._told: set[tuple[str, bytes, str]] = set()
        self._passing = asyncio.Lock()
        self._offering = asyncio.Lock()
        self._stirred = asyncio.Event()
        self._denied = asyncio.Event()  # something may be, since it was looked at
        self._due = False  # a pass is
        self._again = False  # and judges anew what does not run
        self._failed = False
        self._complained = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        supply.attach(take_sheet=self._answered, take_file=self._delivered, failed=self._not_fetched)

    # --- what the application calls ----------------------------------------------------------------

    async def start(self) -> None:
        """Read the held sheet, the serial floors and the time floor. Damage stops no rack, only its modules."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._load)
        if self._judge.floors.lost:
            self._alert("module.floors_lost", {"reason": printable(self._judge.floors.lost)})

    def work(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Yield the tasks to run, by name."""
        yield "modules", self._run()
        yield "module-denials", self._watch_denials()
        yield "module-supply", self._supply.run()

    async def stop(self) -> None:
        """Run nothing any more, and keep the time floor."""
        await self.obey(active=False)
        try:
            await asyncio.to_thread(self._clock.save)
        except StageboxError as error:
            log.warning("time_floor_not_kept", reason=error.message)

    async def obey(self, *, active: bool) -> None:
        """Do what the passport says; when this returns nothing runs that it forbids."""
        self._active = active
        if active:
            self._look_again()
        else:
            await self._settle({})

    def connected(self) -> None:
        """The bus is up (again): ask for the sheet and for what is missing."""
        self._look_again()
        self._supply.connected()

    def captured(self) -> None:
        """Sources are captured (again): seat what waits for them; returns at once."""
        self._unseated = True
        self._stir()

    def denied_changed(self) -> None:
        """A newer deny list is held. May be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._denied.set)
            self._loop.call_soon_threadsafe(self._look_again)

    def handlers(self) -> Mapping[str, Handler]:
        """Return verb → handler."""
        return {CommandVerb.PATCH: self._obey_patch}

    def status(self) -> list[dict[str, Any]]:
        """What a heartbeat says of each insert of the sheet."""
        running = self._arranger.running()
        return [self._fact(slot, running.get(slot.insert.id)) for slot in self._slots]

    async def offer(self, sheet: bytes) -> bool:
        """Take a sheet if it is newer than the one held; return whether it was. It is durable then, and is followed.

        Raises:
            SheetRefused: not a sheet of the pinned cluster for this rack, or an older one. StorageError: not written.
        """
        try:
            async with self._offering:
                newer = await asyncio.to_thread(self._sheets.offer, sheet)
        finally:
            self._stir()  # a thread finishes what it began also when we are cancelled
        if newer:
            self._clock.heard(self._sheets.serial)
            log.info("patch_sheet_kept", serial=self._sheets.serial)
        return newer

    # --- what the supply brings --------------------------------------------------------------------

    async def _answered(self, sheet: bytes) -> None:
        """Take the mixer's fresh, verified answer to our question for a sheet; empty if ours is the newest."""
        if sheet:
            await self.offer(sheet)
        if self._judge.floors.lost:
            await asyncio.to_thread(self._judge.floors.restore)
            self._event("module.floors_restored", {"serial": self._sheets.serial})
            self._look_again()

    async def _delivered(self, insert: Insert, data: bytes) -> bool:
        """Judge a file that was fetched; return False if it was refused."""
        await self._settle({insert.digest: data})
        asked = [slot for slot in self._slots if slot.insert.digest == insert.digest]
        return not any(slot.state is SlotState.REJECTED for slot in asked)

    def _not_fetched(self, insert: Insert, code: str, reason: str) -> None:
        for slot in self._slots:
            if slot.insert.digest == insert.digest and slot.state is SlotState.WAITING:
                slot.wait(code)
                if self._first(slot.insert, code):
                    self._event("module.not_fetched", _detail(slot.insert, code, reason))

    async def _obey_patch(self, command: Command) -> None:
        sheet = command.args.get("Sheet")
        if type(sheet) is not bytes:
            raise CommandRefused("malformed", "the command carries no patch sheet")
        try:
            await self.offer(sheet)
        except SheetRefused as error:
            raise CommandRefused(error.code, error.message) from error

    # --- passes ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        timed_out = True  # the first pass is due at once
        while True:
            self._stirred.clear()
            if timed_out or self._due:
                await self._settle({})
                if self._failed:
                    await asyncio.sleep(self._limits.module_retry)
                    continue
            try:
                # Whoever else made a pass stirs us too: something may end earlier now.
                async with asyncio.timeout(self._pause()):
                    await self._stirred.wait()
            except TimeoutError:
                timed_out = True
            else:
                timed_out = False

    def _pause(self) -> float:
        end = self._slots.next_end(self._clock.now_ns(), self._monotonic())
        # The schedule is looked at now and then in any case: wall clocks jump.
        return self._limits.module_check if end is None else min(end, self._limits.module_check)

    async def _settle(self, files: Mapping[bytes, bytes]) -> None:
        """Make one pass; ``files`` were fetched just now. What fails is logged, and tried again by the task."""
        async with self._passing:
            self._due = False
            again, self._again = self._again, False
            try:
                await self._pass(files, again=again)
                self._failed, self._complained = False, ""
            except asyncio.CancelledError:
                self._again |= again
                self._due = True
                raise
            except Exception as error:
                # Whatever it is, a rack whose modules cannot be brought in line still captures.
                if repr(error) != self._complained:
                    log.error("modules_not_settled", exc_info=error)
                self._complained = repr(error)
                self._again |= again
                self._due = self._failed = True
            finally:
                self._stirred.set()

    async def _pass(self, files: Mapping[bytes, bytes], *, again: bool) -> None:
        if not self._active:
            self._slots.clear()
            self._supply.want(())
            await self._arrange()
            return
        changed = self._slots.follow(self._sheets.sheet, self._monotonic())
        if changed:
            await self._forget_others()
        if self._clock.stepped() or again:
            self._slots.again()  # a clock that was wrong ends nothing for good
        await self._stop_ended()
        await self._arrange()  # what may not run any more ends before anything else is looked at
        verdicts = await self._verdicts(files)
        self._apply(verdicts)
        # A serial floor that was raised just now may end another file of that module.
        await self._stop_ended()
        await self._arrange()
        inserts = (slot.insert for slot in self._slots)
        self._supply.want(tuple(i for i in inserts if i.id in verdicts and verdicts[i.id].missing))
        await asyncio.to_thread(self._clock.save_if_due)

    async def _verdicts(self, files: Mapping[bytes, bytes]) -> dict[str, Verdict]:
        waiting = self._slots.waiting()
        if not waiting:
            return {}
        return await asyncio.to_thread(
            self._judge.judge,
            waiting,
            fetched=files,
            held=self._slots.files(),
            fitting=self._slots.fitting,
            denied=self._denials.list,
            now_ns=self._clock.now_ns(),
        )

    def _apply(self, verdicts: Mapping[str, Verdict]) -> None:
        for slot in self._slots:
            verdict = verdicts.get(slot.insert.id)
            if verdict is None:
                continue
            if verdict.admitted is not None:
                slot.admit(verdict.admitted)
                self._told = {
                    cause for cause in self._told if cause[:2] != (slot.insert.id, slot.insert.digest)
                }
                continue
            error = verdict.error
            if error is not None and self._first(slot.insert, error.code):
                self._alert("module.rejected", _detail(slot.insert, error.code, error.message))
            if error is None or verdict.missing or verdict.later:
                slot.wait(slot.code or "missing" if error is None else error.code)
            else:
                slot.refuse(SlotState.STOPPED if slot.ran else SlotState.REJECTED, error.code)

    async def _stop_ended(self) -> None:
        """End what may not run any more: it is out of all audio when this returns, and told."""
        for placed in self._slots.end_bridges(self._monotonic()):
            log.warning("module_not_replaced_in_time", insert=placed.insert.id, version=placed.module.version)
        denied = self._denials.list
        if denied is not None:
            self._clock.heard(denied.time_ns)
        await self._endings.carry_out()

    async def _watch_denials(self) -> None:
        """Carry out denials beside the passes: one may be waiting for what starts, or for a busy host."""
        while True:
            await self._denied.wait()
            self._denied.clear()
            try:
                await self._endings.deny()
            except Exception:
                log.exception("modules_not_denied")
                self._stir()  # a pass arranges what is left

    def _ended(self, placed: Placed, error: ModuleError) -> None:
        if self._first(placed.insert, error.code):
            self._alert("module.stopped", _detail(placed.insert, error.code, error.message))

    async def _arrange(self) -> None:
        wanted = self._slots.wanted()
        if wanted == self._arranged and not self._unseated:
            return
        self._arranged, self._unseated = None, False
        await self._endings.arrange(wanted)
        self._arranged = wanted

    async def _forget_others(self) -> None:
        """Forget what belongs to a sheet of before: files on disk, and causes that were told."""
        named = {(slot.insert.id, slot.insert.digest) for slot in self._slots}
        self._told = {cause for cause in self._told if cause[:2] in named}
        await asyncio.to_thread(self._judge.library.prune, self._slots.fitting)

    def _first(self, insert: Insert, code: str) -> bool:
        """Whether this cause is new; it is not any more then."""
        cause = (insert.id, insert.digest, code)
        new = cause not in self._told
        self._told.add(cause)
        return new

    def _look_again(self) -> None:
        self._again = True
        self._stir()

    def _stir(self) -> None:
        self._due = True
        self._stirred.set()

    def _load(self) -> None:
        self._clock.load()
        self._judge.load()
        self._sheets.load()
        self._clock.heard(self._sheets.serial)

    def _fact(self, slot: Slot, running: Running | None) -> dict[str, Any]:
        insert, state, code = slot.insert, slot.state.value, slot.code
        now = running if running is not None and slot.placed is not None else Running("starting")
        if slot.state is SlotState.ADMITTED:
            state, code = now.state, now.code
        elif slot.placed is not None:
            state = "replacing"  # the version before goes on meanwhile
        elif slot.state is SlotState.WAITING and self._supply.fetching == insert.digest:
            state = "fetching"
        return {
            "insert": insert.id,
            "module": insert.module,
            "version": insert.version,
            "digest": insert.digest.hex(),
            "point": insert.point.value,
            "source": insert.source,
            "state": state,
            "code": code,
            "faults": now.faults,
            "over_budget": now.over_budget,
            "bypassed": now.bypassed,
        }


def _detail(insert: Insert, code: str, reason: str) -> dict[str, Any]:
    return {
        "module": insert.module,
        "version": printable(insert.version),
        "insert": insert.id,
        "digest": insert.digest.hex(),
        "code": code,
        "reason": printable(reason)[: LIMITS.module_reason_chars],
    }
