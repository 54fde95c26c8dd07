"""A host: the process that modules run in. ``python -m stagebox_rack.modules.hosting.child PARENT CONTROL BELL STAGE``.

One thread does everything but tick: it answers chains whose bell rang, then does one other thing that is due (a
message, a fresh instance, a record) and looks at the bells again, so none of these holds up audio for longer than it
takes by itself. The other thread lets the engine's epoch go on, and ends the process if the rack is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
import wasmtime

from stagebox import cbor
from stagebox.errors import DecodeError, StageboxError
from stagebox.modules.confinement import confine
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.lockdown import lock_down
from stagebox.modules.sealed import read_whole
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.audio_lane import AudioLane
from stagebox_rack.modules.hosting.calls import read_data
from stagebox_rack.modules.hosting.instance import House, Instance
from stagebox_rack.modules.hosting.lane import CONTROL
from stagebox_rack.modules.hosting.messages import pack, receive, send, unpack
from stagebox_rack.modules.hosting.record_lane import RecordLane
from stagebox_rack.modules.hosting.room import Room
from stagebox_rack.modules.hosting.spec import InstanceSpec, params_from_wire
from stagebox_rack.modules.hosting.stage import Stage
from stagebox_rack.modules.hosting.wasm import GuestEngine, GuestFault

_BELLS_BYTES = 4096
_RESEND_MS = 2


class Child:
    """The host of one process."""

    def __init__(self, control: socket.socket, bell: int, stage: Stage) -> None:
        self._control = control
        self._bell = bell
        self._house = House(GuestEngine(), stage, Room(), self._say, self._tell)
        self._lanes: dict[int, AudioLane | RecordLane] = {}
        self._instances: dict[int, Instance] = {}
        self._lane_of: dict[int, int] = {}
        self._awake: dict[int, AudioLane | RecordLane] = {}
        self._modules: dict[int, wasmtime.Module] = {}
        self._unsent: deque[bytes] = deque()  # bounded by what the rack asks, and by strikes
        self._messages = False
        self._next_tally = 0.0
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)

    def run(self) -> NoReturn:
        """Serve until the process is ended."""
        self._answer(0, None)
        busy = False
        while True:
            # A host with something to do only looks; without, it sleeps until it is rung.
            if not busy or self._poll.poll(_RESEND_MS if self._unsent else 0):
                bells = os.read(self._bell, _BELLS_BYTES)
                if not bells:
                    os._exit(0)  # the rack is gone
                self._serve(memoryview(bells).cast("H"))
            busy = self._do_one()
            if time.monotonic() >= self._next_tally:
                self._tally()

    def tick(self, parent: int) -> None:
        """Let time go on for guests, until the rack is gone."""
        words = self._house.stage.words
        while os.getppid() == parent:
            time.sleep(LIMITS.module_tick)
            self._house.engine.tick()
            words[Stage.TICKS] += 1
        os._exit(0)

    # --- what is due ---------------------------------------------------------------------------------

    def _serve(self, bells: memoryview) -> None:
        for number in bells:
            if number == CONTROL:
                self._messages = True
                continue
            lane = self._lanes.get(number)
            if lane is not None and lane.serve():
                self._awake[number] = lane

    def _do_one(self) -> bool:
        """Do one thing that can wait; False if there is none."""
        if self._messages:
            self._messages = self._take_message()
            return True
        while self._awake:
            number, lane = next(iter(self._awake.items()))
            if lane.chores():
                return True
            del self._awake[number]
        return bool(self._unsent) and not self._send_unsent()

    def _take_message(self) -> bool:
        try:
            data, descriptors = receive(self._control)
        except BlockingIOError:
            return False
        if not data:
            os._exit(0)  # the rack closed its end
        fields = unpack(data)
        number = cbor.take_uint(fields, "ID", "message")
        try:
            self._obey(cbor.take(fields, "Do", str, "message"), fields, descriptors)
        except GuestFault as fault:
            self._answer(number, fault)
        except (StageboxError, ValueError, KeyError) as error:
            self._answer(number, GuestFault("host_error", repr(error)))
        else:
            self._answer(number, None)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _obey(self, verb: str, fields: dict[str, Any], descriptors: list[int]) -> None:
        match verb:
            case "chain":
                reply = descriptors.pop()
                self._lanes[fields["Lane"]] = AudioLane(
                    descriptors[0], reply, fields["Rate"], fields["Channels"]
                )
            case "feed":
                self._lanes[fields["Lane"]] = RecordLane(descriptors.pop())
            case "stage":
                self._stage(fields, descriptors)
            case "order":
                lane = self._awake[fields["Lane"]] = self._lanes[fields["Lane"]]
                self._order(lane, fields["Instances"])
            case "params":
                instance = self._instances[fields["Instance"]]
                instance.set(params_from_wire(fields["Params"]))
                number = self._lane_of[instance.spec.instance]
                self._lanes[number].look()
                self._awake[number] = self._lanes[number]
            case "discard":
                instance = self._instances[fields["Instance"]]
                self._forget([instance])
                instance.close()
            case "drop":
                self._drop(fields["Lane"])
            case _:
                raise ValueError(f"there is no verb {verb!r}")

    def _stage(self, fields: dict[str, Any], descriptors: list[int]) -> None:
        number = cbor.take_uint(fields, "Lane", "message")
        lane = self._lanes[number]
        spec = InstanceSpec.from_wire(fields)
        module = self._modules.get(spec.code)
        if module is None:
            module = self._house.engine.load(read_whole(descriptors[0], FORMAT.native_bytes))
            self._modules[spec.code] = module
        instance = Instance(self._house, spec, module, lane.moment)
        try:
            instance.start()
        except GuestFault:
            instance.close()
            raise
        self._instances[spec.instance] = instance
        self._lane_of[spec.instance] = number

    def _order(self, lane: AudioLane | RecordLane, pairs: list[list[int]]) -> None:
        had = list(lane.instances)
        wanted = {number for number, _ in pairs}
        lane.order([(self._instances[number], before) for number, before in pairs])
        self._forget(one for one in had if one.spec.instance not in wanted)

    def _drop(self, number: int) -> None:
        lane = self._lanes.pop(number)
        self._awake.pop(number, None)
        heard = list(lane.instances)
        staged = [self._instances[one] for one, where in self._lane_of.items() if where == number]
        for instance in staged:
            if instance not in heard:
                instance.close()
        lane.close()
        self._forget(staged)

    def _forget(self, instances: Iterable[Instance]) -> None:
        """Know these no more, nor the code that nothing else runs; what fades out keeps its own."""
        for instance in instances:
            self._instances.pop(instance.spec.instance, None)
            self._lane_of.pop(instance.spec.instance, None)
        used = {instance.spec.code for instance in self._instances.values()}
        self._modules = {code: module for code, module in self._modules.items() if code in used}

    # --- what is said --------------------------------------------------------------------------------

    def _say(self, event: dict[str, Any]) -> bool:
        """Send an event now or never: a guest that talks too much holds up nobody."""
        try:
            send(self._control, pack(event))
        except OSError:
            return False
        return True

    def _tell(self, event: dict[str, Any]) -> bool:
        """Send an event, later if not now."""
        self._unsent.append(pack(event))
        return self._send_unsent()

    def _answer(self, number: int, fault: GuestFault | None) -> None:
        failed = {} if fault is None else {"Code": fault.code, "Reason": fault.reason}
        self._tell({"Answer": number, **failed})

    def _send_unsent(self) -> bool:
        """Send what waits; False if not all could be."""
        while self._unsent:
            try:
                send(self._control, self._unsent[0])
            except BlockingIOError:
                return False
            self._unsent.popleft()
        return True

    def _tally(self) -> None:
        self._next_tally = time.monotonic() + LIMITS.module_tally
        for instance in self._instances.values():
            tally = instance.tally()
            done = tally["Blocks"] + tally["Bypassed"]
            if done != instance.told and self._say(tally):
                instance.told = done


def main() -> NoReturn:
    """Begin to serve."""
    parent, control, bell, page = (int(word) for word in sys.argv[1:])
    confine(
        parent,
        data_bytes=LIMITS.module_host_data_bytes,
        descriptors=LIMITS.module_host_descriptors,
        nice=LIMITS.module_host_nice,
    )
    np.seterr(all="ignore")  # what is not finite is looked for, and is a guest's fault
    link = socket.socket(fileno=control)
    link.setblocking(False)
    stage = Stage(page)
    os.close(page)
    child = Child(link, bell, stage)
    _warm_up()
    lock_down()
    threading.Thread(target=child.tick, args=(parent,), name="epoch", daemon=True).start()
    child.run()


def _warm_up() -> None:
    """Do once what imports something when it is first done: nothing can be opened any more afterwards."""
    read_data(pack({"text": ["x", b"x", 1, -1, 0.5, True, None]}), LIMITS.module_message_bytes)
    with contextlib.suppress(DecodeError):
        read_data(b"\xff", 1)


if __name__ == "__main__":
    main()
