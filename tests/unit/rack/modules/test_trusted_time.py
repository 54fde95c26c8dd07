"""Trusted time: the wall clock, but never behind what the cluster has signed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.errors import StorageError
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules import trusted_time
from stagebox_rack.modules.trusted_time import TrustedTime
from stagebox_rack.summed import encode

NS = 1_000_000_000
NOW = 1_767_312_000 * NS
SAVE = int(LIMITS.module_time_save) * NS


class Clocks:
    def __init__(self, wall: int = NOW, monotonic: int = 50 * NS) -> None:
        self.wall, self.monotonic = wall, monotonic

    def pass_(self, ns: int) -> None:
        self.wall += ns
        self.monotonic += ns


def opened(path: Path, clocks: Clocks) -> TrustedTime:
    made = TrustedTime(path, lambda: clocks.wall, lambda: clocks.monotonic)
    made.load()
    return made


def test_a_wall_clock_that_nobody_contradicts_is_believed(tmp_path: Path) -> None:
    found = opened(tmp_path / "time.cbor", Clocks())
    assert (found.now_ns(), found.floor) == (NOW, 0)


def test_a_wall_clock_behind_a_signed_time_is_not(tmp_path: Path) -> None:
    clocks = Clocks(wall=0)
    found = opened(tmp_path / "time.cbor", clocks)
    found.heard(NOW)
    assert found.now_ns() == NOW
    clocks.pass_(7 * NS)
    assert found.now_ns() == NOW + 7 * NS
    clocks.wall = NOW + 60 * NS
    assert found.now_ns() == NOW + 60 * NS


def test_an_older_signed_time_changes_nothing(tmp_path: Path) -> None:
    found = opened(tmp_path / "time.cbor", Clocks(wall=0))
    found.heard(NOW)
    found.heard(NOW - 1)
    found.heard(0)
    assert found.now_ns() == NOW


def test_a_wall_clock_that_was_wrong_once_raises_no_floor(tmp_path: Path) -> None:
    clocks = Clocks(wall=NOW + 10**9 * NS)
    found = opened(tmp_path / "time.cbor", clocks)
    found.heard(NOW)
    found.save()
    clocks.wall = NOW
    assert opened(tmp_path / "time.cbor", clocks).now_ns() == NOW


def test_the_floor_survives_a_restart_with_a_clock_set_back(tmp_path: Path) -> None:
    clocks = Clocks()
    found = opened(tmp_path / "time.cbor", clocks)
    found.heard(NOW)
    clocks.pass_(100 * NS)
    found.save()
    again = opened(tmp_path / "time.cbor", Clocks(wall=0, monotonic=NS))
    assert again.now_ns() == NOW + 100 * NS
    assert (tmp_path / "time.cbor").stat().st_mode & 0o777 == 0o600


def test_the_disk_is_written_only_now_and_then(tmp_path: Path) -> None:
    path, clocks = tmp_path / "time.cbor", Clocks()
    found = opened(path, clocks)
    found.heard(NOW)
    found.save_if_due()
    first = path.stat().st_ino
    clocks.pass_(SAVE - 1)
    found.heard(clocks.wall)
    found.save_if_due()
    assert path.stat().st_ino == first
    clocks.pass_(1)
    found.save_if_due()
    assert path.stat().st_ino != first
    assert opened(path, Clocks(wall=0)).floor == NOW + SAVE


def test_without_a_signed_time_nothing_is_written(tmp_path: Path) -> None:
    found = opened(tmp_path / "time.cbor", Clocks())
    found.save()
    found.save_if_due()
    assert not (tmp_path / "time.cbor").exists()


@pytest.mark.parametrize(
    "content", [b"", b"garbage", encode({"Floor": -1}), encode({}), encode({"Floor": 1})[:-1]]
)
def test_a_damaged_file_counts_as_none_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "time.cbor"
    path.write_bytes(content)
    found = opened(path, Clocks())
    assert found.floor == 0
    found.heard(NOW)
    found.save()
    assert opened(path, Clocks(wall=0)).floor == NOW


def test_fields_of_a_later_release_are_kept_when_the_floor_is_saved(tmp_path: Path) -> None:
    path, later = tmp_path / "time.cbor", {"Source": {"kind": "ptp", "trust": [1, None]}}
    path.write_bytes(encode({**later, "Floor": NOW}))
    for hour in (1, 2):
        found = opened(path, Clocks())
        found.heard(NOW + hour * SAVE)
        found.save()
    assert path.read_bytes() == encode({**later, "Floor": NOW + 2 * SAVE})


def test_a_full_disk_stops_no_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(tmp_path / "time.cbor", Clocks(wall=0))
    found.heard(NOW)

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(trusted_time, "write_atomic", full)
    found.save_if_due()
    assert found.now_ns() == NOW
    with pytest.raises(StorageError):
        found.save()


steps = st.one_of(
    st.tuples(st.just("heard"), st.integers(0, 2 * NOW)),
    st.tuples(st.just("wall"), st.integers(0, 2 * NOW)),
    st.tuples(st.just("pass"), st.integers(0, 10**6 * NS)),
    st.tuples(st.just("restart"), st.just(0)),
)


@given(st.lists(steps, max_size=12))
def test_the_floor_never_goes_back_whatever_the_clocks_do(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    path, clocks = tmp_path_factory.mktemp("time") / "time.cbor", Clocks()
    found = opened(path, clocks)
    floor = 0
    for step, value in steps:
        match step:
            case "heard":
                found.heard(value)
                floor = max(floor, value)
            case "wall":
                clocks.wall = value
            case "pass":
                clocks.pass_(value)
            case "restart":
                found.save()
                clocks.monotonic = 0
                found = opened(path, clocks)
        assert found.floor >= floor
        assert found.now_ns() >= max(floor, clocks.wall)
        floor = found.floor
