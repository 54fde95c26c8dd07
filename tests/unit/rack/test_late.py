"""What waits for the line to be said first: alerts, acks and their proof, within a bound."""

from __future__ import annotations

import pytest

from stagebox.subjects import Kind
from stagebox_rack.late import Late, LateRecord


def record(kind: Kind, data: bytes = b"x") -> LateRecord:
    return LateRecord(kind, f"rack.stage-left.{kind.value}", data)


ALERT, ACK, CHECKPOINT = record(Kind.ALERT), record(Kind.ACK), record(Kind.CHECKPOINT)


@pytest.mark.parametrize("kind", [Kind.METER, Kind.EVENT, Kind.STATUS, Kind.AUDIO, Kind.CHECKPOINT])
def test_only_alerts_and_acks_are_held(kind: Kind) -> None:
    late = Late(100)
    assert late.hold(record(kind)) == [record(kind)]
    assert late.hold(ACK) == []
    assert late.take() == [ACK]
    assert late.take() == []


def test_the_one_checkpoint_that_proves_an_alert_is_held_with_it() -> None:
    late = Late(100)
    late.hold(ALERT)
    assert late.hold(CHECKPOINT) == []
    assert late.hold(CHECKPOINT) == [CHECKPOINT]
    assert late.take() == [ALERT, CHECKPOINT]


def test_what_is_put_back_comes_before_what_follows_and_still_waits_for_its_proof() -> None:
    late = Late(100)
    late.put_back([ACK, ALERT])
    late.hold(ACK)
    assert late.hold(CHECKPOINT) == []
    assert late.take() == [ACK, ALERT, ACK, CHECKPOINT]


def test_what_is_put_back_with_its_proof_waits_for_no_other() -> None:
    late = Late(100)
    late.put_back([ALERT, CHECKPOINT, ACK])
    assert late.hold(CHECKPOINT) == [CHECKPOINT]


def test_a_long_outage_keeps_the_newest_and_says_which_are_gone() -> None:
    late = Late(100)
    alerts = [record(Kind.ALERT, bytes([number]) * 30) for number in range(6)]
    gone = [old for alert in alerts for old in late.hold(alert)]
    assert gone == alerts[:3]
    assert late.take() == alerts[3:]
