from __future__ import annotations

import dataclasses
import json
import math

from hypothesis import given
from hypothesis import strategies as st

from stagebox.cli.rendering import as_json, as_line
from stagebox.cli.tail import _summary
from stagebox.control.command import Ack, AckResult
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame
from stagebox.subjects import Kind
from stagebox.subscriber import Counters, Record, Verification
from stagebox.subscriber.record import Value
from support.frames import meter_frame
from support.module_records import module_record

T0 = 1_700_000_000_123_456_789


def frame(channels: int = 2, momentary: float = -23.0) -> MeterFrame:
    return meter_frame(7, bytes(16), time_ns=T0, channels=channels, peak=-12.5, momentary=momentary)


def record(value: Value | None, kind: Kind = Kind.METER, reason: str = "") -> Record:
    verification = Verification.UNVERIFIABLE if reason else Verification.VERIFIED
    return Record("rack.a.meter.main", "a", kind, "main", b"\x01\x02", T0, value, verification, reason)


def test_a_meter_frame_is_a_line_with_units() -> None:
    line = as_line(record(frame()))
    assert line.startswith("22:13:20.123  verified      rack.a.meter.main")
    assert "seq 7  peak -12.5 -12.5 dBFS" in line
    assert "momentary -23.0 LUFS" in line


def test_an_ack_says_which_command_and_what_became_of_it() -> None:
    done = Ack("flux", "a", 7, bytes(32), bytes(16), T0, AckResult.DONE)
    assert as_line(record(done, Kind.ACK)).endswith("command 7  done")
    refused = dataclasses.replace(done, result=AckResult.REFUSED, reason="expired")
    assert as_line(record(refused, Kind.ACK)).endswith("command 7  refused: expired")
    shown = json.loads(as_json(record(refused, Kind.ACK)))["value"]
    assert (shown["seq"], shown["result"], shown["reason"]) == (7, "refused", "expired")


def test_what_a_module_said_is_a_line_with_its_insert_and_place() -> None:
    at_a_source = record(module_record(3, data={"laeq": -23.5}), Kind.MODULE)
    assert as_line(at_a_source).endswith('seq 3  spl-main (1.2.0) of main at 144000  {"laeq"=-23.5}')
    of_all = dataclasses.replace(module_record(3, data={}), source="", start=0)
    assert as_line(record(of_all, Kind.MODULE)).endswith("seq 3  spl-main (1.2.0)  {}")
    subject = "rack.a.module.spl.leq"
    shown = json.loads(as_json(dataclasses.replace(at_a_source, subject=subject, leaf="spl", out="leq")))
    assert (shown["kind"], shown["leaf"], shown["out"]) == ("module", "spl", "leq")
    assert shown["value"]["data"] == {"laeq": -23.5}
    assert json.loads(as_json(record(frame())))["out"] is None


@given(st.text(max_size=40), st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3))
def test_what_a_module_says_cannot_forge_a_line(text: str, data: dict[str, str]) -> None:
    said = record(module_record(1, insert=text, version=text, source=text, data=dict(data)), Kind.MODULE)
    for shown in (as_line(said), as_json(said)):
        assert len(shown.splitlines()) == 1
        assert "\x1b" not in shown


def test_the_summary_counts_what_was_passed_over_only_if_something_was() -> None:
    assert _summary(Counters(received=2), verify=False) == "received 2, lost 0"
    skipped = _summary(Counters(received=2, skipped=1), verify=False)
    assert skipped == "received 2, lost 0, skipped 1 of kinds this version does not know"


def test_an_unverifiable_record_says_why() -> None:
    line = as_line(record(frame(), reason="no checkpoint came"))
    assert "unverifiable" in line
    assert line.endswith("(no checkpoint came)")


def test_many_channels_are_cut_and_said_to_be() -> None:
    line = as_line(record(frame(channels=64)))
    assert line.count("-12.5") == 3 * 8
    assert " … dBFS" in line


def test_json_holds_every_value() -> None:
    document = json.loads(as_json(record(frame())))
    assert (document["subject"], document["verification"], document["leaf"]) == (
        "rack.a.meter.main",
        "verified",
        "main",
    )
    assert document["value"]["peak"] == [-12.5, -12.5]
    assert document["value"]["boot"] == "00" * 16
    assert document["value"]["time_ns"] == T0


def test_a_level_that_is_no_number_is_null() -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert (
            json.loads(as_json(record(frame(momentary=value))))["value"]["programmes"][0]["momentary"] is None
        )


def test_an_unknown_kind_keeps_its_payload() -> None:
    assert json.loads(as_json(record(None)))["value"] == "0102"
    assert "2 bytes of a kind" in as_line(record(None))


@given(st.text(max_size=40), st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3))
def test_what_a_rack_says_cannot_forge_a_line(name: str, detail: dict[str, str]) -> None:
    event = Event(seq=1, boot=bytes(16), time_ns=T0, name=name, detail=dict(detail))
    for text in (as_line(record(event, Kind.EVENT)), as_json(record(event, Kind.EVENT))):
        assert len(text.splitlines()) == 1
        assert "\x1b" not in text
    assert json.loads(as_json(record(event, Kind.EVENT)))["value"]["name"] == name
