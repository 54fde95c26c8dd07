"""What is placed on one chain or feed, and how it gets there: compiled, started in the host, put in order.

:meth:`Arrangement.arrange` takes away at once, and a task, :meth:`Arrangement.run`, brings what is new. A host that is
gone takes nothing with it: what ran is started again in the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import structlog

from stagebox import cbor
from stagebox.errors import DecodeError, ModuleError
from stagebox.logs import printable
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.calls import read_data
from stagebox_rack.modules.hosting.hosted import (
    Emitted,
    Faulted,
    HostEvent,
    InsertState,
    Logged,
    OverBudget,
    PlacedModule,
    Started,
    Stopped,
)
from stagebox_rack.modules.hosting.native import NativeCode
from stagebox_rack.modules.hosting.order import in_step
from stagebox_rack.modules.hosting.placement import Placement
from stagebox_rack.modules.hosting.places import Place, Speaker
from stagebox_rack.modules.hosting.process import HostGone
from stagebox_rack.modules.hosting.room import NO_ROOM, bytes_for
from stagebox_rack.modules.hosting.spec import InstanceSpec, wire_params

Report = Callable[[HostEvent], None]

log = structlog.get_logger()


class Arrangement:
    """What is on ``place``. ``host`` gives the host that runs now, ``numbers`` are for instances."""

    def __init__(
        self,
        place: Place,
        codes: NativeCode,
        numbers: itertools.count[int],
        report: Report,
        host: Callable[[], Speaker | None],
    ) -> None:
        self.place = place
        self._codes = codes
        self._numbers = numbers
        self._report = report
        self._current = host
        self._placements: list[Placement] = []
        self._host: Speaker | None = None
        self._condemned: Speaker | None = None
        """A host that was ended for not letting go; it is not spoken to any more."""
        self._ordering = 0  # orders that the host did not answer yet
        self._due = asyncio.Event()
        self._moved = asyncio.Event()

    @property
    def placements(self) -> tuple[Placement, ...]:
        """What is placed, in order."""
        return tuple(self._placements)

    @property
    def longest_epoch(self) -> float:
        """How long a guest of it may hold up its host, in seconds."""
        return max((one.placed.module.limits.epoch_ms / 1000 for one in self._placements), default=0.0)

    @property
    def room(self) -> int:
        """How many bytes of its host what is placed here may take."""
        return sum(bytes_for(one.placed.module.limits) for one in self._placements)

    # --- what is wanted ------------------------------------------------------------------------------

    async def arrange(self, wanted: Sequence[PlacedModule]) -> None:
        """Run exactly ``wanted``; when this returns nothing else is heard any more."""
        self._replan(wanted)
        self.poke()
        self._moved.set()
        with contextlib.suppress(HostGone):
            await self._take_away(LIMITS.module_take_away)
            await self._swap()

    async def withdraw(self, gone: Collection[PlacedModule]) -> None:
        """Let none of ``gone`` be heard any more when this returns, not even until a successor runs.

        :meth:`arrange` may be waiting meanwhile. What it took away just now may still be heard, so that is pressed too.
        """
        if not self._drop(gone) and not self._ordering:
            return
        self._moved.set()
        with contextlib.suppress(HostGone):
            await self._take_away(LIMITS.module_withdraw)

    async def settled(self) -> None:
        """Wait until everything runs or is stopped."""
        while any(one.starting for one in self._placements):
            self._moved.clear()
            await self._moved.wait()

    def _replan(self, wanted: Sequence[PlacedModule]) -> None:
        old = {one.insert: one for one in self._placements}
        stays = in_step([one.insert for one in self._placements], [one.insert for one in wanted])
        fresh: list[Placement] = []
        for one in wanted:
            before = old.get(one.insert) if one.insert in stays else None
            if before is not None and before.placed.module.same(one.module):
                before.placed = one
                fresh.append(before)
                continue
            placement = Placement(one, next(self._numbers))
            if before is not None:
                heard = before if before.running else before.before
                placement.before, before.before = heard, None
            fresh.append(placement)
        self._placements = fresh

    def _drop(self, gone: Collection[PlacedModule]) -> bool:
        """Forget ``gone``, also where it is heard until its successor runs; whether any was here."""

        def is_gone(one: Placement | None) -> bool:
            return one is not None and any(
                one.insert == other.insert and one.placed.module.same(other.module) for other in gone
            )

        stay = [one for one in self._placements if not is_gone(one)]
        bridged = [one for one in stay if is_gone(one.before)]
        for one in bridged:
            one.before = None
        dropped = len(stay) < len(self._placements)
        self._placements = stay
        return dropped or bool(bridged)

    async def _swap(self) -> None:
        """Let what is replaced be heard until its successor runs, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMITS.module_swap_wait):
                while any(one.before is not None for one in self._placements):
                    self._moved.clear()
                    await self._moved.wait()
        if any(one.before is not None for one in self._placements):
            for one in self._placements:
                one.before = None
            await self._take_away(LIMITS.module_take_away)

    async def _take_away(self, within: float) -> None:
        """Put the new order in force; a host that does not let go of what is not in it ``within`` s is ended."""
        host = self._host
        try:
            async with asyncio.timeout(within):
                await self._order()
        except TimeoutError:
            if host is None:
                return
            host.kill("it held on to a module that was taken away")
            self._condemned = host
            if self._host is host:
                self._host = None
                self._switch()  # audio passes from here on, not only when the host is seen to be gone

    # --- what the host does ----------------------------------------------------------------------------

    def poke(self) -> None:
        """There is something to bring, or a host to bring it to."""
        self._due.set()

    async def run(self) -> None:
        """Bring what is placed to the host, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            host = self._current()
            if host is None or host is self._condemned:
                continue
            try:
                await self._settle(host)
            except HostGone:
                continue
            except OSError as error:
                # A lack of memory or descriptors, here and now, is not the module's fault.
                log.warning("modules_not_arranged", place=self.place.name, reason=str(error))
                await asyncio.sleep(LIMITS.module_host_retry_max)
                self.poke()
            except Exception:
                log.exception("modules_not_arranged", place=self.place.name)
                await asyncio.sleep(LIMITS.module_host_retry_max)
                self.poke()

    async def _settle(self, host: Speaker) -> None:
        if self._host is not host:
            await self.place.attach(host)
            self._host = host
        while (
            one := next((one for one in self._placements if one.state is InsertState.STARTING), None)
        ) is not None:
            await self._bring(one, host)
        for one in self._placements:
            if one.running and one.sent != dict(one.placed.module.params):
                one.sent = dict(one.placed.module.params)
                await host.ask("params", {"Instance": one.number, "Params": wire_params(one.sent)})
        self._switch()

    def lost(self, on_stage: int, reason: str) -> str:
        """The host is gone; return the insert that was on stage, if it is one of these, and count a strike."""
        self._host = None
        blamed = ""
        for one in self._placements:
            if on_stage and on_stage in (one.number, one.before.number if one.before is not None else 0):
                blamed = one.insert
            struck_out = on_stage == one.number and one.strikes.add(time.monotonic_ns())
            one.again(next(self._numbers))
            if struck_out:
                self._stopped(one, "host_died", reason)
        self._switch()
        return blamed

    async def _bring(self, one: Placement, host: Speaker) -> None:
        """Compile and start one, and put it in order."""
        try:
            code = await self._codes.of(one.placed.module.data)
        except ModuleError as error:
            if one in self._placements:
                self._stopped(one, error.code, error.message)
                await self._order()
            return
        if self._host is not host:
            raise HostGone
        if one not in self._placements:
            return
        number, module = one.number, one.placed.module
        one.sent = dict(module.params)
        spec = InstanceSpec(
            instance=number,
            insert=one.insert,
            code=code.number,
            granted=module.granted,
            limits=module.limits,
            params=one.sent,
            strikes=one.strikes.times,
            **self.place.shape(),
        )
        # A copy: what nobody wants any more may be let go while this waits to be sent.
        descriptor = os.dup(code.descriptor)
        try:
            answer = await host.ask("stage", {**spec.wire(), "Lane": self.place.number}, [descriptor])
        finally:
            os.close(descriptor)
        if one not in self._placements:
            if not answer.code:
                await host.ask("discard", {"Instance": number})
            return
        if answer.code == NO_ROOM:
            raise OSError(answer.reason)  # for now: what others had is not let go yet
        if answer.code:
            self._stopped(one, answer.code, answer.reason)
            await self._order()
            return
        one.state = InsertState.RUNNING
        await self._order()
        self._say(Started, one)

    async def _order(self) -> None:
        """Put in order what runs, and what is heard until its successor does."""
        host = self._host
        if host is None:
            self._switch()
            return
        pairs, ordered = [], [one for one in self._placements if one.running]
        for one in self._placements:
            if one.running:
                pairs.append([one.number, one.before.number if one.before is not None else 0])
                one.before = None
            elif one.before is not None:
                pairs.append([one.before.number, 0])
        self._ordering += 1
        try:
            await host.ask("order", {"Lane": self.place.number, "Instances": pairs})
        finally:
            self._ordering -= 1
        if self._host is host:
            for one in ordered:
                one.in_order = True
            self._moved.set()
        self._switch()

    def _switch(self) -> None:
        hosted = self._host is not None
        running = hosted and any(one.running or one.before is not None for one in self._placements)
        self.place.switch(placed=bool(self._placements), running=running, hosted=hosted)

    # --- what the host says ------------------------------------------------------------------------------

    def took(self, number: int, fields: dict[str, Any]) -> bool:
        """Take an event of instance ``number``; False if it is none of these.

        Raises:
            DecodeError: malformed.
        """
        one = next((one for one in self._placements if one.number == number), None)
        if one is None:
            return False
        match fields.get("Event"):
            case "tally":
                one.tally(fields)
            case _ if one.state is InsertState.STOPPED:
                pass  # it has had its say
            case "record":
                self._record(one, fields)
            case "log":
                self._log(one, fields)
            case "fault" | "over_budget":
                self._fault(one, fields)
            case "stopped":
                self._stopped(one, _text(fields, "Code"), _text(fields, "Reason"))
            case _:
                raise DecodeError("there is no such event")
        return True

    def _record(self, one: Placement, fields: dict[str, Any]) -> None:
        data = read_data(cbor.take(fields, "Data", bytes, "record"), one.placed.module.limits.record_bytes)
        out = cbor.take(fields, "Out", str, "record")
        start, time_ns = cbor.take_uint(fields, "Start", "record"), cbor.take_uint(fields, "Time", "record")
        if one.may_emit(time.monotonic_ns()):
            self._say(Emitted, one, out=out, data=data, start=start, time_ns=time_ns)

    def _log(self, one: Placement, fields: dict[str, Any]) -> None:
        level, text = cbor.take_uint(fields, "Level", "line"), _text(fields, "Text")
        if one.may_log(time.monotonic_ns()):
            self._say(Logged, one, level=level, text=text)

    def _fault(self, one: Placement, fields: dict[str, Any]) -> None:
        over_budget = fields["Event"] == "over_budget"
        if over_budget:
            one.over_budget += 1
        else:
            one.faults += 1
        out = one.strikes.add(time.monotonic_ns())
        code, reason = _text(fields, "Code"), _text(fields, "Reason")
        self._say(
            OverBudget if over_budget else Faulted, one, code=code, reason=reason, strikes=one.strikes.count
        )
        if out or fields.get("Out") is True:
            self._stopped(one, code, reason)

    def _stopped(self, one: Placement, code: str, reason: str) -> None:
        if one.state is InsertState.STOPPED:
            return
        one.stop(code, reason)
        self._moved.set()
        self._switch()
        self._say(Stopped, one, code=code, reason=reason)

    def _say(self, event: type[Any], one: Placement, **more: Any) -> None:
        module = one.placed.module
        self._report(
            event(
                place=self.place.name, insert=one.insert, module=module.name, version=module.version, **more
            )
        )


def _text(fields: dict[str, Any], name: str) -> str:
    return printable(cbor.take(fields, name, str, "event")[: LIMITS.module_log_bytes])
