"""The audit's chain: whatever is done to the rows is found, and rows that were only read are believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import assume, given
from hypothesis import strategies as st

from stagebox.audit_chain import (
    EMPTY,
    NO_HASH,
    ChainBroken,
    ChainReport,
    ChainVerifier,
    Head,
    decode_row,
    row_hash,
)
from stagebox.errors import DecodeError, InputError
from stagebox.limits import LIMITS

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "audit.json").read_text())


def named(vector: dict[str, Any]) -> str:
    return str(vector["reason"])


def verified(rows: Sequence[tuple[int, bytes]], last: int, heads: Sequence[str] = ()) -> ChainReport:
    verifier = ChainVerifier((Head.parse(head), "noted by a test") for head in heads)
    for seq, data in rows:
        verifier.add(seq, data)
    return verifier.finish(last)


def bytes_of(vector: dict[str, Any]) -> list[tuple[int, bytes]]:
    return [(row["seq"], row["data"].encode()) for row in vector["rows"]]


def build(texts: Sequence[str], unchained: int = 0) -> list[bytes]:
    """Rows with these subjects, of which the first ``unchained`` are of the first release."""
    rows: list[bytes] = []
    for number, text in enumerate(texts):
        fields: dict[str, Any] = {
            "v": 2, "id": f"id-{number}", "time_ns": number, "actor": "ops", "action": "approve",
            "subject": text, "result": "ok", "reason": "", "detail": {}, "count": 1,
            "prev": blake3(rows[-1]).hexdigest() if rows else "0" * 64,
        }  # fmt: skip
        if number < unchained:
            fields["v"] = 1
            del fields["prev"]
        rows.append(json.dumps(fields).encode())
    return rows


def numbered(rows: Sequence[bytes]) -> list[tuple[int, bytes]]:
    return list(enumerate(rows, 1))


subjects = st.lists(st.text(max_size=12), min_size=2, max_size=12)


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=named)
def test_an_audit_that_nobody_touched_verifies(vector: dict[str, Any]) -> None:
    report = verified(bytes_of(vector), vector["last"], vector["heads"])
    assert str(report.head) == vector["head"]
    assert (report.rows, report.unchained) == (len(vector["rows"]), vector["unchained"])


@pytest.mark.parametrize("vector", VECTORS["broken"], ids=named)
def test_an_audit_that_somebody_touched_does_not(vector: dict[str, Any]) -> None:
    with pytest.raises(ChainBroken) as caught:
        verified(bytes_of(vector), vector["last"], vector["heads"])
    assert caught.value.seq == vector["at"]
    assert caught.value.exit_code == 77


@given(subjects, st.integers(0, 3))
def test_every_chain_verifies_and_its_head_is_the_newest_rows_hash(texts: list[str], unchained: int) -> None:
    rows = build(texts, unchained)
    report = verified(numbered(rows), len(rows))
    assert report.head == (len(rows), row_hash(rows[-1]))
    assert (report.first, report.last, report.unchained) == (1, len(rows), min(unchained, len(rows)))


@given(subjects, st.data())
def test_any_flipped_bit_is_found(texts: list[str], data: st.DataObject) -> None:
    rows = build(texts)
    head = f"{len(rows)}:{row_hash(rows[-1])}"
    number = data.draw(st.integers(0, len(rows) - 1))
    position = data.draw(st.integers(0, len(rows[number]) * 8 - 1))
    changed = bytearray(rows[number])
    changed[position // 8] ^= 1 << position % 8
    rows[number] = bytes(changed)
    with pytest.raises(ChainBroken):
        verified(numbered(rows), len(rows), [head])


@given(subjects, st.data())
def test_any_removed_run_of_rows_is_found_renumbered_or_not(texts: list[str], data: st.DataObject) -> None:
    rows = numbered(build(texts))
    first = data.draw(st.integers(0, len(rows) - 1))
    end = data.draw(st.integers(first + 1, len(rows)))
    left = rows[:first] + rows[end:]
    with pytest.raises(ChainBroken):
        verified(left, len(rows))
    with pytest.raises(ChainBroken):
        renumbered = numbered([row for _, row in left])
        verified(renumbered, len(renumbered), [f"{len(rows)}:{row_hash(rows[-1][1])}"])


@given(subjects, st.randoms(use_true_random=False))
def test_any_other_order_is_found(texts: list[str], random: Any) -> None:
    rows = build(texts)
    other = rows[:]
    random.shuffle(other)
    assume(other != rows)
    with pytest.raises(ChainBroken):
        verified(numbered(other), len(other))


@given(subjects, st.data())
def test_any_row_slipped_in_is_found(texts: list[str], data: st.DataObject) -> None:
    rows = build(texts)
    place = data.draw(st.integers(0, len(rows) - 1))  # behind the newest row is where everybody writes
    prev = data.draw(st.sampled_from([NO_HASH, *(row_hash(row) for row in rows)]))
    strange = json.dumps(
        {**json.loads(rows[place]), "subject": "nobody", "id": "strange", "prev": prev}
    ).encode()
    with pytest.raises(ChainBroken):
        verified(numbered([*rows[:place], strange, *rows[place:]]), len(rows) + 1)


@given(subjects, st.integers(0, 12))
def test_a_head_noted_at_any_time_still_holds(texts: list[str], at: int) -> None:
    rows = build(texts)
    at = min(at, len(rows))
    head = Head(at, row_hash(rows[at - 1])) if at else EMPTY
    assert verified(numbered(rows), len(rows), [str(head)]).rows == len(rows)


def test_rows_that_say_the_stream_was_rewound_are_reported() -> None:
    rows = build(["a", "b"])
    fields = {**json.loads(rows[1]), "action": "audit_rewound", "detail": {"witness_seq": 9, "stream_seq": 1}}
    rows[1] = json.dumps(fields).encode()
    (found,) = verified(numbered(rows), 2).rewound
    assert (found.seq, found.fields["detail"]["witness_seq"]) == (2, 9)


@pytest.mark.parametrize(
    "text", ["", "1", "1:ab", f"01:{'a' * 64}", f"-1:{'a' * 64}", f"1:{'g' * 64}", f"x:{'a' * 64}"]
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not the head of an audit"):
        Head.parse(text)


@given(st.integers(0, 10**18), st.binary(min_size=32, max_size=32))
def test_a_head_reads_back(seq: int, digest: bytes) -> None:
    head = Head(seq, digest.hex())
    assert Head.parse(str(head)) == head


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_what_is_no_row_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_row(1, data)


@pytest.mark.parametrize(
    "data",
    [b"[" * 16000, b'{"v": NaN}', b" " * (LIMITS.max_audit_row_bytes + 1), b"\xff\xfe", b'{"v": true}'],
)
def test_hostile_rows_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_row(1, data)
