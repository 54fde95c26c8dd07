"""What the mixer reads in nats-server's log: the real lines of 2.15, and imitations of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox_mixer.nats.server import Violation, parse_violation

ACCOUNT = "ABGPAQ4HGIONZNSKRXGC6D2UZEEU3FHB6ESC7KDVREZSZCYGKNP5GNI7"


def line(name: str, user: str, rest: str) -> str:
    return f'127.0.0.1:44130 - wid:24 - "v2.16.0:python3:{name}" - "{ACCOUNT}/STAGEBOX/user:{user}" - {rest}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            line("rack:stage-left", "rack:stage-left", 'Publish Violation - Subject "rack.other.event"'),
            Violation("publish", "rack:stage-left", "rack.other.event"),
        ),
        (
            line("x", "rack:stage-left", 'Subscription Violation - Subject "rack.other.event", SID 1'),
            Violation("subscription", "rack:stage-left", "rack.other.event"),
        ),
        (
            line("x", "client:viewer:desk", 'Subscription Violation - Subject ">", Queue "q", SID 77'),
            Violation("subscription", "client:viewer:desk", ">"),
        ),
    ],
)
def test_a_violation_names_who_did_what_to_which_subject(text: str, expected: Violation) -> None:
    assert parse_violation(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Error trying to connect to route",
        '127.0.0.1:44130 - wid:24 - authentication error - User "N/A"',
        "Publish Violation",
        line("x", "rack:stage-left", "Publish Violation"),
    ],
)
def test_other_lines_are_no_violation(text: str) -> None:
    assert parse_violation(text) is None


names = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=40)
imitation = line("x", "rack:victim", 'Publish Violation - Subject "rack.victim.event"')


@given(before=names, after=names)
def test_a_connection_cannot_blame_another_by_its_own_name(before: str, after: str) -> None:
    name = f"{before}{imitation}{after}"
    real = 'Publish Violation - Subject "rack.other.event"'
    found = parse_violation(line(name, "rack:stage-left", real))
    assert found == Violation("publish", "rack:stage-left", "rack.other.event")


@given(st.text(st.characters(exclude_categories=["Z", "C"], codec="utf-8"), min_size=1, max_size=60))
def test_no_subject_can_change_who_is_named(subject: str) -> None:
    found = parse_violation(line("x", "rack:stage-left", f'Publish Violation - Subject "{subject}"'))
    assert found == Violation("publish", "rack:stage-left", subject)
