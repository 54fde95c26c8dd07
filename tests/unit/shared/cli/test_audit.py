"""``stagebox audit``: the rows that were asked for, the newest of them, and a plain word on whether the chain holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.audit_chain import EMPTY, NO_HASH, Head, row_hash
from stagebox.cli import audit as command
from stagebox.cli import audit_rows, host
from stagebox.errors import BusError, InputError, StageboxError, VerificationError

Capture = pytest.CaptureFixture[str]
T0 = 1_767_312_000_000_000_000  # 2026-01-02T00:00:00Z in ns
HOUR = 3600 * 10**9


class Mixer:
    """Answers as the API does. ``short`` is how many rows it sends at most."""

    def __init__(self, rows: list[bytes], *, short: int = 1000, witness: Head | None = None) -> None:
        self.rows = rows
        self.short = short
        self.witness = witness
        self.asked: list[tuple[int, int]] = []

    def audit(self, after: int, limit: int) -> dict[str, Any]:
        self.asked.append((after, limit))
        chosen = range(after + 1, min(len(self.rows), after + min(limit, self.short)) + 1)
        witness = self.witness
        return {
            "v": 1,
            "rows": [{"seq": seq, "data": self.rows[seq - 1].decode()} for seq in chosen],
            "last": len(self.rows),
            "witness": None if witness is None else {"seq": witness.seq, "head": witness.hash},
        }

    @property
    def head(self) -> Head:
        return Head(len(self.rows), row_hash(self.rows[-1])) if self.rows else EMPTY


def chained(*tables: dict[str, Any]) -> list[bytes]:
    rows: list[bytes] = []
    for number, table in enumerate(tables):
        fields = {
            "v": 2, "id": f"id-{number}", "time_ns": T0 + number * HOUR, "actor": "spiffe://venue/client/admin/ops",
            "action": "approve", "subject": "stage-left", "result": "ok", "reason": "", "detail": {}, "count": 1,
            "prev": row_hash(rows[-1]) if rows else NO_HASH, **table,
        }  # fmt: skip
        rows.append(json.dumps(fields, sort_keys=True).encode())
    return rows


SCENE = chained(
    {"action": "token_create"},
    {"action": "enroll", "actor": "192.0.2.7", "detail": {"serial": 1, "key": "ab"}},
    {"action": "connect", "result": "refused", "reason": "secret", "subject": "snake", "count": 7,
     "actor": "spiffe://venue/tenant/default/rack/stage-left"},
    {"action": "publish", "result": "refused", "reason": "subject_not_permitted", "actor": "rack:stage-right",
     "subject": "rack.stage-left.wal"},
    {"action": "deny", "reason": "stolen\x1b[2J", "subject": "stage-right"},
)  # fmt: skip


@pytest.fixture
def mixer(monkeypatch: pytest.MonkeyPatch) -> Mixer:
    mixer = Mixer(list(SCENE))

    @contextmanager
    def mixer_api(*_: object) -> Iterator[object]:
        yield SimpleNamespace(audit=mixer.audit)

    monkeypatch.setattr(command, "mixer_api", mixer_api)
    return mixer


@pytest.mark.parametrize(
    ("flags", "numbers"),
    [
        ([], [1, 2, 3, 4, 5]),
        (["--limit", "2"], [4, 5]),
        (["--result", "refused"], [3, 4]),
        (["--action", "token_*"], [1]),
        (["--actor", "*/client/admin/*"], [1, 5]),
        (["--subject", "stage-*"], [1, 2, 5]),
        (["--rack", "stage-left"], [1, 2, 3, 4]),
        (["--rack", "stage-right"], [4, 5]),
        (["--since", "2026-01-02T03:00:00Z"], [4, 5]),
        (["--since", "2026-01-02", "--result", "ok", "-n", "1"], [5]),
    ],
)
def test_list_shows_the_newest_rows_that_are_wanted_oldest_first(
    mixer: Mixer, capsys: Capture, flags: list[str], numbers: list[int]
) -> None:
    assert host.run(["audit", "list", "--json", *flags]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["seq"] for row in rows] == numbers
    assert all(row == {"seq": row["seq"], **json.loads(SCENE[row["seq"] - 1])} for row in rows)


def test_a_line_says_who_did_what_to_whom_and_drives_no_terminal(mixer: Mixer, capsys: Capture) -> None:
    assert host.run(["audit", "list"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[2].split() == [
        "3", "2026-01-02T02:00:00Z", "refused", "connect", "snake", "by",
        "spiffe://venue/tenant/default/rack/stage-left", "(secret)", "x7",
    ]  # fmt: skip
    assert lines[1].endswith("key=ab  serial=1")
    assert "\x1b" not in out


def test_a_list_of_nothing_says_so(mixer: Mixer, capsys: Capture) -> None:
    assert host.run(["audit", "list", "--action", "nothing"]) == 0
    assert capsys.readouterr() == ("", "no such row in the audit\n")


@given(st.integers(0, 2500), st.integers(1, 1500), st.sampled_from([1, 999, 1000]), st.integers(1, 5))
def test_a_long_audit_is_searched_from_its_end(count: int, limit: int, every: int, short: int) -> None:
    def subject(number: int) -> str:
        return "wanted" if number % every == 0 else "other"

    rows = [
        json.dumps({"v": 1, "id": "", "time_ns": number, "actor": "", "action": "a", "subject": subject(number),
                    "result": "ok", "reason": "", "detail": {}, "count": 1}).encode()
        for number in range(count)
    ]  # fmt: skip
    mixer = Mixer(rows, short=short * 100)
    found, last = audit_rows.newest(mixer.audit, audit_rows.Filter(subject="wanted"), limit)
    assert [row.seq for row in found] == [n + 1 for n in range(count) if n % every == 0][-limit:]
    assert last == count


def test_looking_for_recent_rows_does_not_read_the_old_ones() -> None:
    rows = chained(*({"time_ns": T0 + number} for number in range(5000)))
    mixer = Mixer(rows)
    found, _ = audit_rows.newest(mixer.audit, audit_rows.Filter(since_ns=T0 + 4990), 100)
    assert [row.seq for row in found] == list(range(4991, 5001))
    assert min(after for after, limit in mixer.asked if limit > 1) == 3000


def test_following_goes_on_with_the_rows_behind(mixer: Mixer, capsys: Capture, monkeypatch: Any) -> None:
    more = chained(*({} for _ in range(7)))[5:]

    def sleep(_seconds: float) -> None:
        if not more:
            raise KeyboardInterrupt
        mixer.rows.append(more.pop(0))

    monkeypatch.setattr(time, "sleep", sleep)
    assert host.run(["audit", "list", "--follow", "--json", "--limit", "1"]) == 130
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [5, 6, 7]


def test_verify_says_what_it_verified_and_the_head_to_note(mixer: Mixer, capsys: Capture) -> None:
    mixer.witness = Head(4, row_hash(SCENE[3]))
    assert host.run(["audit", "verify"]) == 0
    out = capsys.readouterr().out
    assert "5 rows, 1 to 5" in out
    assert out.splitlines()[-1].split() == ["head", str(mixer.head)]
    assert host.run(["audit", "verify", "--json", "--expect", str(mixer.head)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["rows"], report["head"]) == (True, 5, str(mixer.head))


Change = Callable[[Mixer], None]


def _alter(mixer: Mixer) -> None:
    mixer.rows[2] = mixer.rows[2].replace(b"refused", b"ok")


def _shorten(mixer: Mixer) -> None:
    mixer.witness = mixer.head
    del mixer.rows[3:]


def _rewrite(mixer: Mixer) -> None:
    mixer.witness = mixer.head
    mixer.rows[:] = chained(*({} for _ in range(5)))


@pytest.mark.parametrize(
    ("change", "seq", "words"),
    [
        (_alter, 4, "row 4 does not follow row 3"),
        (_shorten, 4, "noted by the mixer outside the stream, lies behind it"),
        (_rewrite, 5, "row 5 is not the one of the head"),
    ],
)
def test_an_audit_that_does_not_hold_ends_with_77(
    mixer: Mixer, capsys: Capture, change: Change, seq: int, words: str
) -> None:
    change(mixer)
    assert host.run(["audit", "verify"]) == 77
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert host.run(["audit", "verify", "--json"]) == 77
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["seq"]) == (False, seq)
    assert words in report["error"]


def test_a_head_noted_earlier_that_is_not_in_it_ends_with_77(mixer: Mixer, capsys: Capture) -> None:
    assert host.run(["audit", "verify", "--expect", f"3:{'a' * 64}"]) == 77
    assert "row 3 is not the one of the head" in capsys.readouterr().err
    assert host.run(["audit", "verify", "--expect", f"9:{'a' * 64}"]) == 77
    assert "noted by you, lies behind it" in capsys.readouterr().err
    assert host.run(["audit", "verify", "--expect", "the last one"]) == 65


def test_verify_names_every_time_the_stream_was_put_back(mixer: Mixer, capsys: Capture) -> None:
    detail = {"witness_seq": 9, "stream_seq": 1, "witness_head": "", "stream_head": ""}
    mixer.rows[:] = chained(
        {}, {"action": "audit_rewound", "reason": "shortened", "detail": detail, "result": "failed"}
    )
    assert host.run(["audit", "verify"]) == 0
    assert "the stream ended at row 1 although the mixer knew row 9 (shortened)" in capsys.readouterr().out


def test_verify_pages_through_everything_and_leaves_newer_rows_to_the_next_time() -> None:
    mixer = Mixer(chained(*({} for _ in range(25))), short=10)
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        mixer.rows.append(chained(*({} for _ in range(len(mixer.rows) + 1)))[-1])

    report = audit_rows.verify(mixer.audit, None, progress)
    assert seen == [(10, 25), (20, 25), (27, 25)]
    assert report.rows == 27


def test_a_witness_ahead_of_the_answer_is_no_alarm() -> None:
    rows = chained(*({} for _ in range(12)))
    mixer = Mixer(rows, short=10, witness=Head(12, row_hash(rows[11])))
    answers = [mixer.audit(0, 1000) | {"last": 10}]
    fetch = lambda after, limit: answers.pop() if answers else mixer.audit(after, limit)  # noqa: E731
    assert audit_rows.verify(fetch, None, lambda done, total: None).rows == 12


def test_an_audit_that_gets_shorter_while_it_is_read_does_not_hold() -> None:
    mixer = Mixer(chained(*({} for _ in range(25))), short=10)

    def progress(_done: int, _total: int) -> None:
        del mixer.rows[10:]

    with pytest.raises(VerificationError, match="rows 11 to 25 are missing"):
        audit_rows.verify(mixer.audit, None, progress)


def test_an_empty_audit_verifies(mixer: Mixer, capsys: Capture) -> None:
    mixer.rows.clear()
    assert host.run(["audit", "verify"]) == 0
    assert capsys.readouterr().out == "the audit has no rows\n"


def test_a_damaged_row_is_not_listed_as_if_it_were_one(mixer: Mixer, capsys: Capture) -> None:
    mixer.rows[1] = b"{}"
    assert host.run(["audit", "list"]) == 77
    assert "audit row 2 has the version None" in capsys.readouterr().err


def test_a_hole_is_not_listed_as_if_nothing_were_missing(mixer: Mixer, capsys: Capture) -> None:
    answer = {"rows": [], "last": 10**15}
    with pytest.raises(VerificationError, match="has no audit row"):
        audit_rows.newest(lambda after, limit: answer, audit_rows.Filter(), 10)


@pytest.mark.parametrize(
    "answer",
    [
        {}, {"rows": [], "last": -1}, {"rows": [], "last": True}, {"rows": [{}], "last": 1}, {"rows": 1, "last": 1},
        {"rows": [{"seq": "1", "data": ""}], "last": 1}, {"rows": [{"seq": 1, "data": 5}], "last": 1},
        {"rows": [], "last": 1, "witness": {}}, {"rows": [], "last": 1, "witness": {"seq": 1, "head": "ab"}},
    ],
)  # fmt: skip
def test_an_answer_that_is_no_page_is_not_taken_for_one(answer: dict[str, Any]) -> None:
    with pytest.raises(BusError, match="not with a page of audit rows"):
        audit_rows.page(lambda after, limit: answer, 0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["rows", "last", "seq", "data", "witness", "head"]), inner)
        ),
        max_leaves=12,
    )
)
def test_no_answer_makes_anything_but_an_error_of_ours(answer: Any) -> None:
    with pytest.raises(StageboxError):
        audit_rows.verify(lambda after, limit: answer, None, lambda done, total: None)
        raise BusError("an empty audit")


def test_since_is_a_duration_or_a_time() -> None:
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert audit_rows.since("2h", now) == T0 + 10 * HOUR
    assert audit_rows.since("2026-01-02", now) == T0
    assert audit_rows.since("2026-01-02T03:00:00+02:00", now) == T0 + HOUR
    with pytest.raises(InputError, match="neither a duration nor a time"):
        audit_rows.since("yesterday", now)
