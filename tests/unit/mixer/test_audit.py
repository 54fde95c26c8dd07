"""The audit: nothing goes uncounted, disk and memory stay bounded, and what is not written does not happen."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from nats.js.errors import ServiceUnavailableError

from stagebox.audit_chain import NO_HASH, decode_row
from stagebox.errors import BusError, InputError
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.audit.refusals import MANY, OVERFLOW, RefusalWindow, TokenBucket
from stagebox_mixer.audit.row import bounded, check
from stagebox_mixer.limits import LIMITS

WINDOW_S = 10.0
OVERFLOW_S = 60.0
MAX_KEYS = 4
BURST = 6
SERVER_OVERHEAD = 300  # bytes that the server adds to a row; the integration tests look
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "audit.md"

arrivals = st.lists(
    st.tuples(
        st.sampled_from([f"10.0.0.{number}" for number in range(8)]),
        st.sampled_from(["connect", "enroll", "renew"]),
        st.floats(0, 40, allow_nan=False),
    ),
    max_size=60,
)


def refusal(actor: str, action: str) -> Row:
    return Row(actor, action, "snake", "refused", "secret")


def small_window(burst: float = BURST, per_s: float = 0.2) -> RefusalWindow:
    return RefusalWindow(
        TokenBucket(burst, per_s),
        window_s=WINDOW_S,
        max_keys=MAX_KEYS,
        overflow_window_s=OVERFLOW_S,
        overflow_actions=2,
    )


@given(arrivals)
def test_every_refusal_is_counted_exactly_once(refusals: list[tuple[str, str, float]]) -> None:
    window, now, written = small_window(), 0.0, []
    for actor, action, pause in refusals:
        now += pause
        written += window.expire(now)
        row = window.admit(refusal(actor, action), now)
        written += [row] if row is not None else []
    written += window.expire(now, everything=True)
    assert sum(row.count for row in written) == len(refusals)
    assert not window.expire(now, everything=True)
    counted: Counter[str] = Counter()
    for row in written:
        counted[row.action] += row.count
    exact = Counter(action for _, action, _ in refusals)
    assert all(counted[action] <= exact[action] for action in exact)  # the rest is in the row of many actions


@given(arrivals)
def test_memory_and_rows_stay_within_the_bounds(refusals: list[tuple[str, str, float]]) -> None:
    window, now, rows = small_window(), 0.0, 0
    for actor, action, pause in refusals:
        now += pause
        rows += len([row for row in window.expire(now) if row.reason != OVERFLOW])
        rows += window.admit(refusal(actor, action), now) is not None
        assert window.size <= MAX_KEYS + 2
        assert rows <= BURST + 0.2 * now


def test_the_first_refusal_is_written_at_once_and_the_rest_when_the_window_ends() -> None:
    window, row = small_window(), refusal("10.0.0.1", "connect")
    assert window.admit(row, 0.0) == row
    assert window.admit(row, 1.0) is None
    assert window.admit(row, 9.9) is None
    assert window.expire(9.9) == []
    (counted,) = window.expire(10.0)
    assert (counted.actor, counted.count) == ("10.0.0.1", 2)
    assert window.admit(row, 10.1) == row


def test_beyond_the_budget_one_row_a_minute_has_the_count_of_all() -> None:
    window = small_window(burst=3, per_s=0.0)
    admitted = [window.admit(refusal(f"10.0.0.{number}", "connect"), 0.0) for number in range(100)]
    assert len([row for row in admitted if row is not None]) == 3
    assert window.expire(OVERFLOW_S - 0.1) == []
    (overflow,) = window.expire(OVERFLOW_S)
    assert (overflow.actor, overflow.action, overflow.subject) == (MANY, "connect", MANY)
    assert (overflow.reason, overflow.count) == (OVERFLOW, 97)


def test_the_budget_comes_back_with_time() -> None:
    bucket = TokenBucket(2, 0.5)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1.9), bucket.take(2.0), bucket.take(2.1)] == [False, True, False]
    assert [bucket.take(1e9) for _ in range(3)] == [True, True, False]


def test_a_row_is_one_json_object_with_sorted_keys_that_decodes() -> None:
    row = Row("10.0.0.1", "connect", "snake", "refused", "secret", {"host": "10.0.0.1\n"}, 3)
    data = row.encode("id-1", 5, NO_HASH)
    assert b"\n" not in data
    fields = json.loads(data)
    assert list(fields) == sorted(fields)
    assert (fields["v"], fields["id"], fields["time_ns"], fields["count"]) == (2, "id-1", 5, 3)
    assert decode_row(1, data).fields == fields


texts = st.text(max_size=2000) | st.just("\U0001f69a" * 5000) | st.just('"' * 5000)


@given(
    texts,
    texts,
    texts,
    st.dictionaries(texts, texts | st.integers(0, 1 << 64), max_size=6),
    st.integers(1, 1 << 40),
)
def test_whatever_the_refused_sends_a_row_of_it_is_short(
    actor: str, subject: str, reason: str, detail: dict[str, str | int], count: int
) -> None:
    row = bounded(Row(actor, "connect", subject, "refused", reason, detail, count))
    data = row.encode("0" * 36, 1 << 62, NO_HASH)
    assert len(data) <= LIMITS.refusal_row_bytes
    assert row.count == count


def test_a_refusal_of_ordinary_size_is_kept_whole() -> None:
    uri = f"spiffe://{'c' * 63}/tenant/{'t' * 63}/rack/{'r' * 63}"
    row = Row(
        uri, "connect", "snake", "refused", "certificate_key", {"host": "192.0.2.7", "message": "m" * 200}
    )
    assert bounded(row) == row


@pytest.mark.parametrize("action", ["", "a.b", "*", ">", "A", "a b", "a" * 64])
def test_an_action_that_is_no_token_of_a_subject_is_refused(action: str) -> None:
    with pytest.raises(InputError, match="cannot be the action"):
        check(refusal("ops", action), 100)


def test_what_the_reference_says_a_day_can_cost_is_what_the_limits_allow() -> None:
    rows = LIMITS.refusal_burst_rows + LIMITS.refusal_rows_per_s * 86_400
    rows += LIMITS.refusal_overflow_actions * 86_400 / LIMITS.refusal_overflow_window_s
    worst = rows * (LIMITS.refusal_row_bytes + SERVER_OVERHEAD)
    stated = re.search(r"at most (\d+) MB a day", REFERENCE.read_text())
    assert stated is not None
    assert int(stated[1]) - 10 <= worst / 1e6 <= int(stated[1])


class Away:
    """JetStream while nats-server is away."""

    async def stream_info(self, *_arguments: object, **_options: object) -> object:
        raise ServiceUnavailableError(code=503, err_code=0, description="no responders")

    publish = stream_info


async def test_a_row_that_cannot_be_written_stops_what_it_is_about() -> None:
    audit = Audit(lambda: Away())  # type: ignore[arg-type,return-value]
    with pytest.raises(BusError, match="the audit cannot be used"):
        await audit.record(refusal("10.0.0.1", "connect"))


async def test_an_audit_that_cannot_be_reached_does_not_start() -> None:
    audit = Audit(lambda: Away())  # type: ignore[arg-type,return-value]
    with pytest.raises(BusError, match="the audit cannot be used"):
        await audit.start()
    await audit.stop()


async def test_a_refusal_that_cannot_be_written_is_in_the_log_and_still_counted() -> None:
    audit = Audit(lambda: Away())  # type: ignore[arg-type,return-value]
    with structlog.testing.capture_logs() as lines:
        audit.refused(refusal("10.0.0.1", "connect"))
        await audit.stop()
    failed = [line for line in lines if line["event"] == "audit_write_failed"]
    assert [line["count"] for line in failed] == [1, 1]  # at once, and in the overflow row at the end
