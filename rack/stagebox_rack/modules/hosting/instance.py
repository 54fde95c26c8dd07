"""One insert's instance inside a host: called, blamed, thrown away after a fault, and made anew until it strikes out.

A fault costs the block it happened in and a strike; the next instance is made when the audio of that round was
answered. What does not start is stopped at once, for it would not start the next time either.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Any

import wasmtime

from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.calls import GuestCalls, Moment, Say
from stagebox_rack.modules.hosting.guest import Guest
from stagebox_rack.modules.hosting.room import NO_ROOM, Room, bytes_for
from stagebox_rack.modules.hosting.spec import InstanceSpec
from stagebox_rack.modules.hosting.stage import Stage
from stagebox_rack.modules.hosting.strikes import Strikes
from stagebox_rack.modules.hosting.wasm import GuestEngine, GuestFault


@dataclass(frozen=True)
class House:
    """What all instances of a host share."""

    engine: GuestEngine
    stage: Stage
    room: Room
    say: Say
    """What may be lost: lines and records."""
    tell: Say
    """What may not: faults."""


class Instance:
    """One instance; ``moment`` is where its lane says which block is given. It has its room until it is closed."""

    def __init__(self, house: House, spec: InstanceSpec, module: wasmtime.Module, moment: Moment) -> None:
        """Take room for it.

        Raises:
            GuestFault: there is none.
        """
        self._room = bytes_for(spec.limits)
        if not house.room.take(self._room):
            raise GuestFault(NO_ROOM, f"its host has no {self._room} bytes for it now")
        self.spec = spec
        self.bypassed = 0
        self.broken = False
        """Whether a fresh guest is due."""
        self.told = 0
        """How many blocks the rack was told of."""
        self._house = house
        self._words = house.stage.words
        self._module = module
        self._calls = GuestCalls(spec.instance, spec.limits, moment, house.say)
        self._strikes = Strikes(LIMITS.module_strikes, LIMITS.module_strike_window, spec.strikes)
        self._params = dict(spec.params)
        self._guest: Guest | None = None
        self._before = (0, 0, 0)  # blocks, fuel and time of the guests that are gone
        self._most = (0, 0)

    @property
    def fuel(self) -> int:
        """What it has used so far, for blocks that went well."""
        return self._before[1] + (0 if self._guest is None else self._guest.fuel)

    def start(self) -> None:
        """Make a guest.

        Raises:
            GuestFault: it does not start.
        """
        self.broken = False
        self._words[Stage.INSTANCE] = self.spec.instance
        try:
            self._guest = Guest(self._house.engine, self._module, self.spec, self._params, self._calls)
        finally:
            self._words[Stage.INSTANCE] = 0

    def play(self, source: ctypes.c_void_p, target: ctypes.c_void_p, frames: int) -> bool:
        """Process a block as :meth:`Guest.process` does; False if it is bypassed, and ``target`` may be anything."""
        guest = self._guest
        if guest is None:
            self.bypassed += 1
            return False
        self._words[0] = self.spec.instance
        try:
            guest.process(source, target, frames)
        except GuestFault as fault:
            self.fail(fault)
            return False
        finally:
            self._words[0] = 0
        return True

    def hear(self, kind: int, subject: bytes, record: bytes) -> None:
        """Give it a record; one that it has no room for passes it."""
        guest = self._guest
        if guest is None:
            self.bypassed += 1
            return
        self._words[0] = self.spec.instance
        try:
            if not guest.record(kind, subject, record):
                self.bypassed += 1
        except GuestFault as fault:
            self.fail(fault)
        finally:
            self._words[0] = 0

    def fail(self, fault: GuestFault) -> None:
        """Throw the guest away for a fault, and count it."""
        self._drop(tell=False)
        self.bypassed += 1
        out = self._strikes.add(time.monotonic_ns())
        self.broken = not out
        self._tell("over_budget" if fault.over_budget else "fault", fault, Out=out)

    def repair(self) -> bool:
        """Make a fresh guest after a fault; False if it does not start, and is stopped therefore."""
        try:
            self.start()
        except GuestFault as fault:
            self._tell("stopped", fault)
            return False
        return True

    def set(self, params: dict[int, float]) -> None:
        """Set parameters, for good."""
        self._params |= params
        guest = self._guest
        if guest is None:
            return
        self._words[0] = self.spec.instance
        try:
            for number, value in params.items():
                guest.param(number, value)
        except GuestFault as fault:
            self.fail(fault)
        finally:
            self._words[0] = 0

    def close(self) -> None:
        """End it, after a last word of its own."""
        self.broken = False
        self._words[0] = self.spec.instance
        try:
            self._drop(tell=True)
        finally:
            self._words[0] = 0
            self._house.room.give_back(self._room)
            self._room = 0

    def tally(self) -> dict[str, Any]:
        """Return the event that says what it did."""
        blocks, fuel, time_ns = self._before
        fuel_most, time_most = self._most
        guest = self._guest
        if guest is not None:
            blocks, fuel, time_ns = blocks + guest.blocks, fuel + guest.fuel, time_ns + guest.time_ns
            fuel_most, time_most = max(fuel_most, guest.fuel_most), max(time_most, guest.time_most_ns)
        return {
            "Event": "tally",
            "Instance": self.spec.instance,
            "Blocks": blocks,
            "Bypassed": self.bypassed,
            "Fuel": fuel,
            "FuelMost": fuel_most,
            "Time": time_ns,
            "TimeMost": time_most,
        }

    def _drop(self, *, tell: bool) -> None:
        guest, self._guest = self._guest, None
        if guest is None:
            return
        blocks, fuel, time_ns = self._before
        self._before = (blocks + guest.blocks, fuel + guest.fuel, time_ns + guest.time_ns)
        self._most = (max(self._most[0], guest.fuel_most), max(self._most[1], guest.time_most_ns))
        guest.close(tell=tell)

    def _tell(self, event: str, fault: GuestFault, **more: Any) -> None:
        said = {"Event": event, "Instance": self.spec.instance, "Code": fault.code, "Reason": fault.reason}
        self._house.tell({**said, **more})
