"""The audit: nothing goes uncounted, memory stays bounded, and what is not written does not happen."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from nats.js.errors import ServiceUnavailableError

from stagebox.errors import BusError
from stagebox_mixer.audit import Audit, RefusalWindow, Row

WINDOW_S = 10.0
MAX_KEYS = 4

arrivals = st.lists(
    st.tuples(
        st.sampled_from([f"10.0.0.{number}" for number in range(8)]),
        st.sampled_from(["connect", "enroll"]),
        st.floats(0, 4, allow_nan=False),
    ),
    max_size=60,
)


def refusal(actor: str, action: str) -> Row:
    return Row(actor, action, "snake", "refused", "secret")


@given(arrivals)
def test_every_refusal_is_counted_exactly_once(refusals: list[tuple[str, str, float]]) -> None:
    window, now, written = RefusalWindow(WINDOW_S, MAX_KEYS), 0.0, []
    for actor, action, pause in refusals:
        now += pause
        written += window.expire(now)
        row = window.admit(refusal(actor, action), now)
        written += [row] if row is not None else []
    written += window.expire(float("inf"))
    counted: Counter[str] = Counter()
    for row in written:
        counted[row.action] += row.count
    assert counted == Counter(action for _, action, _ in refusals)
    assert not window.expire(float("inf"))


@given(arrivals)
def test_open_windows_stay_bounded(refusals: list[tuple[str, str, float]]) -> None:
    window = RefusalWindow(WINDOW_S, MAX_KEYS)
    for actor, action, _ in refusals:
        window.admit(refusal(actor, action), 0.0)
        assert len(window._open) <= MAX_KEYS + 2  # one overflow key for each action


def test_the_first_refusal_is_written_at_once_and_the_rest_when_the_window_ends() -> None:
    window, row = RefusalWindow(WINDOW_S, MAX_KEYS), refusal("10.0.0.1", "connect")
    assert window.admit(row, 0.0) == row
    assert window.admit(row, 1.0) is None
    assert window.admit(row, 9.9) is None
    assert window.expire(9.9) == []
    (counted,) = window.expire(10.0)
    assert (counted.actor, counted.count) == ("10.0.0.1", 2)
    assert window.admit(row, 10.1) == row


def test_a_row_is_one_json_object_with_sorted_keys() -> None:
    row = Row("10.0.0.1", "connect", "snake", "refused", "secret", {"host": "10.0.0.1\n"}, 3)
    data = row.encode("id-1", 5)
    assert b"\n" not in data
    fields = json.loads(data)
    assert list(fields) == sorted(fields)
    assert (fields["v"], fields["id"], fields["time_ns"], fields["count"]) == (1, "id-1", 5, 3)


class Away:
    async def publish(self, *_arguments: object, **_options: object) -> None:
        raise ServiceUnavailableError(code=503, err_code=0, description="no responders")


async def test_a_row_that_cannot_be_written_stops_what_it_is_about() -> None:
    audit = Audit(lambda: Away())  # type: ignore[arg-type,return-value]
    with pytest.raises(BusError, match="the audit cannot be used"):
        await audit.record(refusal("10.0.0.1", "connect"))


async def test_a_refusal_that_cannot_be_written_ends_quietly_and_is_in_the_log() -> None:
    audit = Audit(lambda: Away())  # type: ignore[arg-type,return-value]
    with structlog.testing.capture_logs() as lines:
        await audit.start()
        audit.refused(refusal("10.0.0.1", "connect"))
        await audit.stop()
    assert "audit_write_failed" in [line["event"] for line in lines]
