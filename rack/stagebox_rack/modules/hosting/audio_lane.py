"""A host's side of one chain: its instances in order, one block after the other, with cross-fades where they change.

What an instance makes counts only when all of it is audio; otherwise, or when there is none, what was before goes on
to the next. Three buffers take turns, so a block that went wrong never overwrites what it was made from.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

import numpy as np

from stagebox_rack.audio.sanity import is_audio
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.calls import Moment
from stagebox_rack.modules.hosting.fades import Fade, Float32, cross_fade
from stagebox_rack.modules.hosting.instance import Instance
from stagebox_rack.modules.hosting.lane import (
    ANSWERED,
    ASKED,
    DRY,
    FRAMES,
    FUEL,
    REPLY,
    START,
    STATUS,
    TIME,
    WET,
    Lane,
)
from stagebox_rack.modules.hosting.order import with_leaving
from stagebox_rack.modules.hosting.wasm import GuestFault, move

_NS = 1_000_000_000


class _Buffer:
    """One block as float32[channels, block], and its address."""

    def __init__(self, samples: Float32) -> None:
        self.samples = samples
        self.at = ctypes.c_void_p(samples.ctypes.data)


class _Slot:
    """A place in the order: ``instance`` plays, or is faded to from ``before``. Without either it is dry there."""

    def __init__(self, instance: Instance | None, before: Instance | None, fade: Fade | None) -> None:
        self.instance = instance
        self.before = before
        self.fade = fade

    @property
    def key(self) -> int:
        """The number of the instance that it is for."""
        one = self.instance or self.before
        assert one is not None
        return one.spec.instance


class AudioLane:
    """One chain as its host sees it; ``descriptor`` is of the lane's memory, ``reply`` a pipe to tell answers."""

    def __init__(self, descriptor: int, reply: int, rate: int, channels: int) -> None:
        self.moment = Moment()
        self._rate = rate
        self._reply = reply
        self._lane = Lane(descriptor, rate // LIMITS.module_blocks_per_s, channels, LIMITS.module_lane_blocks)
        self._header = self._lane.header
        shape = (channels, self._lane.block)
        self._ins = [_Buffer(block) for block in self._lane.inputs]
        self._outs = [_Buffer(block) for block in self._lane.outputs]
        self._spare = _Buffer(np.zeros(shape, np.float32)), _Buffer(np.zeros(shape, np.float32))
        self._size = ctypes.c_size_t(self._spare[0].samples.nbytes)
        self._slots: list[_Slot] = []
        self._failed = False
        self._leaving: list[Instance] = []
        # What a host before us was asked is answered by nobody any more.
        self._header[STATUS] = DRY
        self._header[ANSWERED] = self._header[ASKED]

    @property
    def instances(self) -> Iterable[Instance]:
        """What plays here, and what fades out."""
        for slot in self._slots:
            if slot.instance is not None:
                yield slot.instance
            if slot.before is not None:
                yield slot.before

    def serve(self) -> bool:
        """Answer what was asked, if anything was; return whether there are chores now."""
        header = self._header
        asked = header[ASKED]
        if asked == header[ANSWERED]:
            return False
        frames, start, time_ns = header[FRAMES], header[START], header[TIME]
        status = DRY
        if self._slots and 0 < frames <= self._lane.capacity:
            status = self._piece(frames, start, time_ns)
        header[STATUS] = status
        fuel = 0
        for slot in self._slots:
            if slot.instance is not None:
                fuel += slot.instance.fuel
            if slot.before is not None:
                fuel += slot.before.fuel
        header[FUEL] = fuel
        header[ANSWERED] = asked
        os.write(self._reply, REPLY.pack(asked))
        return self._failed or bool(self._leaving)

    def order(self, wanted: list[tuple[Instance, int]]) -> None:
        """Let exactly these play, in this order; what both orders have stands in the same order in both.

        Beside each is the number of the one whose place it takes, or 0: a new one fades in from that, or from dry.
        """
        length = self._lane.block
        old = {slot.key: slot for slot in self._slots}
        made: dict[int, _Slot] = {}
        for one, _ in wanted:
            if one.spec.instance in old:
                made[one.spec.instance] = old.pop(one.spec.instance)
        for one, before in wanted:
            if one.spec.instance not in made:
                taken = old.pop(before, None)
                made[one.spec.instance] = _Slot(one, self._last_of(taken), Fade(length))
        for number, slot in old.items():
            fade = slot.fade if slot.instance is None else Fade(length)
            made[number] = _Slot(None, self._last_of(slot), fade)
        order = with_leaving([slot.key for slot in self._slots], [one.spec.instance for one, _ in wanted])
        self._slots = [made[number] for number in order if number in made]

    def look(self) -> None:
        """Something was done to an instance: it may be broken."""
        self._failed = True

    def chores(self) -> bool:
        """Do one thing that is due between two rounds; False if there is none."""
        if self._leaving:
            self._leaving.pop().close()
            return True
        if not self._failed:
            return False
        for slot in self._slots:
            if slot.instance is not None and slot.instance.broken:
                if slot.instance.repair():
                    self._gone(slot.before)
                    slot.before, slot.fade = None, Fade(self._lane.block)
                return True
        self._failed = False
        return False

    def close(self) -> None:
        """End everything that plays here, and let go of the memory."""
        for one in [*self.instances, *self._leaving]:
            one.close()
        self._slots, self._leaving = [], []
        self._ins, self._outs = [], []
        self._lane.close()
        os.close(self._reply)

    # --- a piece -------------------------------------------------------------------------------------

    def _piece(self, frames: int, start: int, time_ns: int) -> int:
        block, moment = self._lane.block, self.moment
        wet = False
        for number in range(-(-frames // block)):
            done = number * block
            moment.start = start + done
            moment.time_ns = time_ns + done * _NS // self._rate
            wet |= self._block(self._ins[number], self._outs[number], min(block, frames - done))
        return WET if wet else DRY

    def _block(self, current: _Buffer, out: _Buffer, frames: int) -> bool:
        first = current
        spare, third = self._spare
        faded = False
        for slot in self._slots:
            target = out if current is not out else spare
            if slot.fade is None:
                current = self._hear(slot.instance, current, target, frames)
                continue
            faded = True
            other = third if current is not third else spare
            current = self._fade(slot, slot.fade, current, target, other, frames)
        if current is not out:
            move(out.at, current.at, self._size)
        if faded:
            self._end_fades()
        return current is not first

    def _fade(
        self, slot: _Slot, fade: Fade, current: _Buffer, one: _Buffer, other: _Buffer, frames: int
    ) -> _Buffer:
        old = self._hear(slot.before, current, one, frames)
        new = self._hear(slot.instance, current, other, frames)
        ramp = fade.ramp(frames)
        if old is new:
            return current
        mixed = one if new is current else new
        cross_fade(old.samples[:, :frames], new.samples[:, :frames], ramp, mixed.samples[:, :frames])
        return mixed

    def _hear(self, instance: Instance | None, current: _Buffer, target: _Buffer, frames: int) -> _Buffer:
        """What ``instance`` makes of ``current``: in ``target``, or ``current`` itself if it makes nothing."""
        if instance is None:
            return current
        if instance.play(current.at, target.at, frames):
            if is_audio(target.samples if frames == self._lane.block else target.samples[:, :frames]):
                return target
            instance.fail(
                GuestFault("not_finite", "its output holds NaN, infinity or what is as good as that")
            )
        self._failed = True
        return current

    def _end_fades(self) -> None:
        kept: list[_Slot] = []
        for slot in self._slots:
            if slot.fade is not None and slot.fade.done:
                self._gone(slot.before)
                slot.before = slot.fade = None
            if slot.instance is not None or slot.before is not None:
                kept.append(slot)
        self._slots = kept

    def _last_of(self, slot: _Slot | None) -> Instance | None:
        """Who is heard last of a slot that ends; who was fading out before it is cut."""
        if slot is None:
            return None
        if slot.instance is None:
            return slot.before
        self._gone(slot.before)
        return slot.instance

    def _gone(self, instance: Instance | None) -> None:
        if instance is not None:
            instance.broken = False
            self._leaving.append(instance)
