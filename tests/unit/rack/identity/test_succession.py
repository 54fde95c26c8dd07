"""Which keys a rack had before: only what the key in use has signed counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox import cbor
from stagebox_rack.identity.succession import ancestors, declare, earlier_keys, load, record
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import StatePaths

KEYS = [SigningKey(bytes([number]) * 32) for number in range(6)]
PUBLIC = [bytes(key.verify_key) for key in KEYS]


def follow(paths: StatePaths, key: int, previous: int) -> None:
    record(paths, "r", KEYS[key], PUBLIC[previous], {PUBLIC[previous]})


def test_every_key_before_is_found_newest_first(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    for number in range(1, 6):
        follow(paths, number, number - 1)
        # Until it is proved, the one before is in use.
        assert earlier_keys(paths, "r", PUBLIC[number - 1]) == tuple(reversed(PUBLIC[: number - 1]))
    assert earlier_keys(paths, "r", PUBLIC[5]) == tuple(reversed(PUBLIC[:5]))
    assert earlier_keys(paths, "r", PUBLIC[0]) == ()


def test_a_key_that_was_staged_and_never_used_is_forgotten_with_the_next(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    follow(paths, 1, 0)
    follow(paths, 2, 1)  # never proved
    follow(paths, 3, 1)
    follow(paths, 3, 1)  # its staging failed and is repeated
    assert earlier_keys(paths, "r", PUBLIC[3]) == (PUBLIC[1], PUBLIC[0])
    assert len(load(paths)) == 2


def test_nobody_but_the_key_in_use_says_whom_it_follows() -> None:
    forged = cbor.decode(declare("r", KEYS[2], [PUBLIC[0]]), max_bytes=1 << 16)
    assert isinstance(forged, dict)
    statement = declare("r", KEYS[1], [PUBLIC[0]])
    own = cbor.decode(statement, max_bytes=1 << 16)
    assert isinstance(own, dict)
    mixed = cbor.encode({"Payload": own["Payload"], "Signature": forged["Signature"]})
    assert ancestors("r", PUBLIC[1], [mixed]) == ()
    assert ancestors("s", PUBLIC[1], [statement]) == ()
    assert ancestors("r", PUBLIC[1], [declare("r", KEYS[2], [PUBLIC[1]])]) == ()
    assert ancestors("r", PUBLIC[1], [mixed, statement]) == (PUBLIC[0],)


def test_what_is_no_key_proves_nothing() -> None:
    assert ancestors("r", PUBLIC[1], [declare("r", KEYS[1], [PUBLIC[0], b"short"])]) == ()
    assert ancestors("r", PUBLIC[1], [declare("r", KEYS[1], [PUBLIC[1], PUBLIC[0]])]) == (PUBLIC[0],)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x80", b"\xff" * 100, cbor.encode([1, "x", b"y"])])
def test_a_damaged_file_proves_nothing_and_does_not_stop_the_rack(tmp_path: Path, content: bytes) -> None:
    paths = StatePaths(tmp_path)
    paths.succession.write_bytes(content)
    assert earlier_keys(paths, "r", PUBLIC[0]) == ()
    follow(paths, 1, 0)
    assert earlier_keys(paths, "r", PUBLIC[1]) == (PUBLIC[0],)


def test_a_rack_rekeyed_for_years_still_proves_its_first_key_and_the_file_stays_bounded(
    tmp_path: Path,
) -> None:
    paths = StatePaths(tmp_path)
    old = [number.to_bytes(32, "big") for number in range(LIMITS.succession_keys, 0, -1)]
    paths.succession.write_bytes(cbor.encode([declare("r", KEYS[0], old)]))
    follow(paths, 1, 0)
    follow(paths, 2, 1)
    earlier = earlier_keys(paths, "r", PUBLIC[2])
    assert earlier[:2] == (PUBLIC[1], PUBLIC[0])
    assert earlier[-1] == old[-1]  # the journal's key file names it
    assert len(earlier) == LIMITS.succession_keys
    assert paths.succession.stat().st_size < LIMITS.succession_bytes
