"""A one-time token is used by one key, whatever order requests, losses and repetitions come in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from stagebox_mixer.enrollment.machine import EnrollmentRefused, Redemption, redeem
from stagebox_mixer.registry.model import TokenEntry, TokenState

KEYS = [bytes([number]) * 32 for number in range(3)]
MACHINES = [1, 2]
RACK = "stage-left"
LIFE_NS = 100


def token(**changes: object) -> TokenEntry:
    entry = TokenEntry(RACK, "default", 0, TokenState.ISSUED, LIFE_NS, 0, "spiffe://c/client/admin/ops")
    return replace(entry, **changes)  # type: ignore[arg-type]


class OneToken(RuleBasedStateMachine):
    """One stored token with compare-and-set, requests in flight, a clock, and replies that may get lost."""

    in_flight = Bundle("in_flight")

    def __init__(self) -> None:
        super().__init__()
        self.bound_to = 0
        self.stored = token()
        self.revision = 1
        self.now_ns = 0
        self.identities: set[bytes] = set()

    @rule(machine=st.sampled_from([0, *MACHINES]))
    def bind(self, machine: int) -> None:
        """Make the token anew for one machine, as long as nobody used it."""
        if self.stored.state is TokenState.ISSUED:
            self.stored = replace(self.stored, machine_id=machine)
            self.bound_to = machine
            self.revision += 1

    @rule(step=st.integers(0, 60))
    def time_passes(self, step: int) -> None:
        self.now_ns += step

    @rule(
        target=in_flight,
        key=st.sampled_from(KEYS),
        machine=st.sampled_from(MACHINES),
        rack=st.sampled_from([None, RACK, "stage-right"]),
    )
    def a_request_is_decided(self, key: bytes, machine: int, rack: str | None) -> tuple[object, int, bytes]:
        try:
            decision: object = redeem(
                self.stored, rack_public=key, machine_id=machine, expected_rack=rack, now_ns=self.now_ns
            )
        except EnrollmentRefused as refusal:
            self._check_refusal(refusal, key, machine, rack)
            decision = refusal
        else:
            assert self.now_ns < self.stored.expires_at
            assert rack in (None, RACK)
            assert self.bound_to in (0, machine)
        return decision, self.revision, key

    @rule(request=in_flight, reply_lost=st.booleans())
    def a_decision_takes_effect(self, request: tuple[object, int, bytes], reply_lost: bool) -> None:
        decision, revision, key = request
        if not isinstance(decision, Redemption):
            return
        if not decision.repeated:
            if revision != self.revision:
                return  # the compare-and-set fails: the service decides again
            self.stored = decision.entry
            self.revision += 1
        if not reply_lost:
            self.identities.add(key)

    def _check_refusal(self, refusal: EnrollmentRefused, key: bytes, machine: int, rack: str | None) -> None:
        reasons = {
            "token_reused": self.stored.state is TokenState.USED and self.stored.used_by != key,
            "token_expired": self.now_ns >= self.stored.expires_at,
            "other_rack": rack not in (None, RACK),
            "other_machine": self.bound_to not in (0, machine),
        }
        assert reasons[refusal.code], refusal.code
        assert refusal.remedy

    @invariant()
    def one_key_at_most_has_an_identity(self) -> None:
        assert len(self.identities) <= 1
        if self.identities:
            assert self.stored.state is TokenState.USED
            assert {self.stored.used_by} == self.identities

    @invariant()
    def a_used_token_never_changes_hands(self) -> None:
        assert (self.stored.state is TokenState.USED) == bool(self.stored.used_by)


TestOneToken = OneToken.TestCase
TestOneToken.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_the_same_key_may_come_back_until_the_token_expires() -> None:
    def again(entry: TokenEntry, now_ns: int) -> Redemption:
        return redeem(entry, rack_public=KEYS[0], machine_id=1, expected_rack=None, now_ns=now_ns)

    first = again(token(), 0)
    assert (first.repeated, first.entry.state, first.entry.used_by) == (False, TokenState.USED, KEYS[0])
    second = again(first.entry, LIFE_NS - 1)
    assert second == Redemption(first.entry, repeated=True)
    with pytest.raises(EnrollmentRefused) as caught:
        again(first.entry, LIFE_NS)
    assert caught.value.code == "token_expired"


def test_an_unknown_token_says_how_to_make_one() -> None:
    with pytest.raises(EnrollmentRefused) as caught:
        redeem(None, rack_public=KEYS[0], machine_id=1, expected_rack=None, now_ns=0)
    assert caught.value.code == "unknown_token"
    assert "stagebox admin token create" in str(caught.value.remedy)
