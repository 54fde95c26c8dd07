"""Which keys a rack had before: only signed statements that lead to the key in use count."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox import cbor
from stagebox_rack.identity.succession import ancestors, declare, earlier_keys, load, record
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import StatePaths

KEYS = [SigningKey(bytes([number]) * 32) for number in range(6)]
PUBLIC = [bytes(key.verify_key) for key in KEYS]


def test_every_key_before_is_found_newest_first(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    for key, following in zip(KEYS, PUBLIC[1:], strict=False):
        record(paths, "r", key, following)
    assert earlier_keys(paths, "r", PUBLIC[5]) == tuple(reversed(PUBLIC[:5]))
    assert earlier_keys(paths, "r", PUBLIC[2]) == (PUBLIC[1], PUBLIC[0])
    assert earlier_keys(paths, "r", PUBLIC[0]) == ()


def test_a_key_that_was_staged_and_never_used_is_forgotten_with_the_next(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    record(paths, "r", KEYS[0], PUBLIC[1])
    record(paths, "r", KEYS[1], PUBLIC[2])  # never proved
    record(paths, "r", KEYS[1], PUBLIC[3])
    assert earlier_keys(paths, "r", PUBLIC[3]) == (PUBLIC[1], PUBLIC[0])
    assert len(load(paths)) == 2


def test_statements_of_another_rack_or_by_another_key_prove_nothing() -> None:
    forged = cbor.decode(declare("r", KEYS[2], PUBLIC[1]), max_bytes=1 << 16)
    assert isinstance(forged, dict)
    statement = declare("r", KEYS[0], PUBLIC[1])
    own = cbor.decode(statement, max_bytes=1 << 16)
    assert isinstance(own, dict)
    mixed = cbor.encode({"Payload": own["Payload"], "Signature": forged["Signature"]})
    assert ancestors("r", PUBLIC[1], [mixed]) == {}
    assert ancestors("s", PUBLIC[1], [statement]) == {}
    assert list(ancestors("r", PUBLIC[1], [statement])) == [PUBLIC[0]]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12), st.integers(0, 5))
def test_circles_end_and_the_key_in_use_is_not_its_own_ancestor(
    links: list[tuple[int, int]], current: int
) -> None:
    found = ancestors("r", PUBLIC[current], [declare("r", KEYS[a], PUBLIC[b]) for a, b in links])
    assert PUBLIC[current] not in found
    assert len(found) <= 5


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x80", b"\xff" * 100, cbor.encode([1, "x", b"y"])])
def test_a_damaged_file_proves_nothing_and_does_not_stop_the_rack(tmp_path: Path, content: bytes) -> None:
    paths = StatePaths(tmp_path)
    paths.succession.write_bytes(content)
    assert earlier_keys(paths, "r", PUBLIC[0]) == ()
    record(paths, "r", KEYS[0], PUBLIC[1])
    assert earlier_keys(paths, "r", PUBLIC[1]) == (PUBLIC[0],)


def test_the_file_stays_bounded(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    key = KEYS[0]
    for number in range(LIMITS.succession_statements + 5):
        following = SigningKey(number.to_bytes(32, "big"))
        record(paths, "r", key, bytes(following.verify_key))
        key = following
    assert len(load(paths)) == LIMITS.succession_statements
    assert paths.succession.stat().st_size < LIMITS.succession_bytes
