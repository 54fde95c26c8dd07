"""Leases of listeners and what racks are told for them, under any coming and going."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stagebox_mixer.limits import LIMITS
from stagebox_mixer.listening.book import LeaseBook

KEY = ("stage-left", "main")
CALLERS = ("spiffe://a", "spiffe://b", "spiffe://c")


class Listeners(RuleBasedStateMachine):
    """The service's own steps with the book, a rack that obeys, and a clock the machine moves."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LeaseBook()
        self.now = 1000.0
        self.rack: dict[bytes, float] = {}  # what the rack holds: lease → end
        self.held: dict[str, tuple[str, float]] = {}  # what listeners hold: lease → caller, end
        self.told = self.starts = self.stops = 0
        self.first = self.now

    @initialize()
    def nobody_listens(self) -> None:
        assert self.book.idle(self.now) == {}

    @rule(
        caller=st.sampled_from(CALLERS),
        ttl=st.integers(LIMITS.listen_min_s, LIMITS.listen_max_s),
        number=st.integers(0, 5),
    )
    def listen(self, caller: str, ttl: int, number: int) -> None:
        lease = f"{caller}-{number}"
        end = self.now + ttl
        if self.book.must_tell(KEY, end):
            at_rack = self.book.rack_lease(KEY, b"fresh%d" % self.starts)
            self.starts += at_rack not in self.rack
            self.rack[at_rack] = self.now + LIMITS.listen_rack_s
            self.told += 1
            self.book.told(KEY, at_rack, self.now + LIMITS.listen_rack_s)
        self.book.take(KEY, lease, caller, end)
        self.held[lease] = (caller, end)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            lease = data.draw(st.sampled_from(sorted(self.held)))
            self.book.release(KEY, lease)
            del self.held[lease]
            self.sweep()

    @rule(seconds=st.floats(0.0, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.sweep()

    @rule()
    def sweep(self) -> None:
        self.held = {lease: kept for lease, kept in self.held.items() if kept[1] > self.now}
        for key, lease in self.book.idle(self.now).items():
            assert key == KEY
            assert not self.held, "somebody listens"
            self.book.forget(key)
            self.rack.pop(lease, None)
            self.stops += 1

    @invariant()
    def no_listener_outlives_the_rack(self) -> None:
        for lease, (caller, end) in self.held.items():
            assert self.book.known(KEY, lease, caller)
            assert not any(self.book.known(KEY, lease, other) for other in CALLERS if other != caller)
            if end > self.now:
                assert max(self.rack.values()) >= end

    @invariant()
    def commands_are_few(self) -> None:
        renewals = (self.now - self.first) / (LIMITS.listen_rack_s - LIMITS.listen_max_s)
        assert self.told <= renewals + self.starts + 1


Listeners.TestCase.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)
TestListeners = Listeners.TestCase
