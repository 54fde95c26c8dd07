from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from demo.account import TLS_EXPECTED, Account, Arrived, RackEvidence
from demo.summary import words
from stagebox.subjects import Kind

ISSUE_KEYS = {"racks", "meter", "audio", "wal", "transport", "startup_ms", "enroll_to_first_frame_ms"}


def evidence(name: str = "stage-left") -> RackEvidence:
    return RackEvidence(
        name=name,
        source="rendered programme, looped",
        arrived={Kind.METER: Arrived(100, 100), Kind.AUDIO: Arrived(250, 250)},
        final={
            "published": {
                f"rack.{name}.meter.main": 100,
                f"rack.{name}.audio.main": 250,
                f"rack.{name}.event": 3,
            },
            "dropped": {f"rack.{name}.event": 2},
            "not_journalled": 0,
            "handover_dropped": 0,
            "wal": {"committed": 110, "lost": 0},
            "sources": [
                {"source": "main", "state": "stopped", "reason": "", "gap_frames": 0, "overrun_frames": 0}
            ],
            "transport": dict(TLS_EXPECTED),
        },
        journal={"verified": True, "records": 112, "last": 112, "mark": 112, "segments": 1, "problems": []},
        lake=[{"last": 112, "records": 112, "batches": 9, "proved": 108, "rejected": 0}],
        enroll_to_first_frame_ms=800.4,
        enroll_command_ms=600.0,
    )


def account(*racks: RackEvidence, **changes: Any) -> Account:
    return replace(Account(racks or (evidence(), evidence("stage-right")), 1200.0, 4.0), **changes)


def changed(change: Callable[[Any], object]) -> RackEvidence:
    """Return good evidence with one thing wrong."""
    rack = evidence()
    wrong = replace(
        rack,
        arrived=dict(rack.arrived),
        final=deepcopy(rack.final),
        journal=deepcopy(rack.journal),
        lake=deepcopy(rack.lake),
    )
    change(wrong)
    return wrong


def test_a_good_run_has_no_failure_and_the_sums_of_both_racks() -> None:
    good = account()
    figures = good.to_json()
    assert good.failures() == []
    assert figures.keys() >= ISSUE_KEYS
    assert figures["racks"] == 2
    assert figures["meter"] == {"published": 200, "received": 200, "verified": 200}
    assert figures["audio"] == {"published": 500, "received": 500, "verified": 500}
    assert figures["wal"] == {"records": 224, "committed": 224, "lost": 0, "segments": 2, "verified": True}
    assert figures["transport"] == TLS_EXPECTED
    assert figures["by_rack"]["stage-left"]["not_sent"] == 2
    assert (figures["startup_ms"], figures["enroll_to_first_frame_ms"]) == (1200, 800)
    assert words(good)[-1] == "Nothing was lost and everything verified."


FAULTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a meter frame did not arrive": (
        lambda r: r.arrived.update({Kind.METER: Arrived(99, 99)}), "meter published 100, received 99",
    ),
    "a packet arrived twice": (
        lambda r: r.arrived.update({Kind.AUDIO: Arrived(251, 250)}), "audio published 250, received 251",
    ),
    "a packet was not proved": (
        lambda r: r.arrived.update({Kind.AUDIO: Arrived(250, 249)}), "verified 249",
    ),
    "nothing was published": (
        lambda r: (r.final["published"].clear(), r.arrived.update({k: Arrived(0, 0) for k in r.arrived})),
        "it published no meter record",
    ),
    "a record was not journalled": (lambda r: r.final.update(not_journalled=1), "1 records were lost"),
    "the hand-over dropped": (lambda r: r.final.update(handover_dropped=2), "2 records were lost"),
    "the journal lost its tail": (lambda r: r.final["wal"].update(lost=3), "3 records were lost"),
    "the journal has a hole": (lambda r: r.journal.update(records=111), "1 records were lost"),
    "the journal ends before its mark": (lambda r: r.journal.update(mark=115), "3 records were lost"),
    "the rack committed more than there is": (
        lambda r: r.final["wal"].update(committed=114), "2 records were lost",
    ),
    "the journal does not verify": (
        lambda r: r.journal.update(verified=False, problems=["segment 1: bad seal"]), "segment 1: bad seal",
    ),
    "the journal is empty": (lambda r: r.journal.update(records=0, last=0, mark=None), "its journal is empty"),
    "the lake is behind": (
        lambda r: r.lake[0].update(records=110, last=110), "the mixer committed 110",
    ),
    "the lake has a hole": (lambda r: r.lake[0].update(last=113), "1 records were lost"),
    "a batch was rejected": (lambda r: r.lake[0].update(rejected=1), "the mixer rejected 1 batches"),
    "samples were not captured": (
        lambda r: r.final["sources"][0].update(gap_frames=480), "480 sample frames could not be captured",
    ),
    "the ring overran": (
        lambda r: r.final["sources"][0].update(overrun_frames=64), "64 sample frames could not be captured",
    ),
    "the source failed": (
        lambda r: r.final["sources"][0].update(state="error", reason="gone"), "source main is error: gone",
    ),
    "another cipher": (
        lambda r: r.final["transport"].update(cipher="TLS_AES_128_GCM_SHA256"), "TLS_AES_128_GCM_SHA256",
    ),
    "whether a certificate was sent is unknown": (
        lambda r: r.final["transport"].update(client_certificate=None), "'client_certificate': None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_of_one_rack_fails_the_run_and_is_named(fault: str) -> None:
    change, said = FAULTS[fault]
    failures = account(changed(change), evidence("stage-right")).failures()
    assert any(said in failure for failure in failures), failures
    assert all(failure.startswith("stage-left: ") for failure in failures)


@pytest.mark.parametrize("missing", ["final", "journal", "lake"])
def test_what_was_not_counted_is_null_and_fails(missing: str) -> None:
    wrong = account(changed(lambda rack: object.__setattr__(rack, missing, None)), evidence("stage-right"))
    figures = wrong.to_json()
    assert wrong.failures()
    assert figures["wal"]["lost"] is None
    assert figures["ok"] is False
    if missing == "final":
        assert figures["racks"] == 1
        assert figures["meter"]["published"] is None
        assert figures["transport"] is None


def test_racks_that_disagree_on_tls_have_no_common_transport() -> None:
    other = changed(lambda rack: rack.final["transport"].update(tls="TLSv1.2"))
    assert account(other, evidence("stage-right")).to_json()["transport"] is None


def test_strangers_and_troubles_fail_the_run() -> None:
    assert account(strangers=1).failures()
    assert account(troubles=("the mixer ended with code 1",)).failures() == ["the mixer ended with code 1"]


def test_a_failed_run_never_claims_that_nothing_was_lost() -> None:
    assert not any("Nothing was lost" in line for line in words(account(strangers=1)))
