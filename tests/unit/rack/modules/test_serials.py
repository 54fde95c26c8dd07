"""Serial floors: what ran here is not undone by a restart, an older file or a damaged disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox import cbor
from stagebox.errors import DecodeError, ModuleError, StorageError
from stagebox_rack import summed
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.serials import SerialFloors, decode, encode

CLUSTER, RACK = "flux-prod", "stage-left"

names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
floors = st.dictionaries(names, st.integers(0, 2**64 - 1), max_size=20)
LATER = {"Reasons": {"gain": [1, None, b"x"]}, "floors": 1.5}


def opened(path: Path, *, cluster: str = CLUSTER, rack: str = RACK) -> SerialFloors:
    made = SerialFloors(path, cluster=cluster, rack=rack)
    made.load()
    return made


def path_in(directory: Path) -> Path:
    return directory / "serials.cbor"


def test_a_rack_that_never_ran_a_module_has_no_floors(tmp_path: Path) -> None:
    found = opened(path_in(tmp_path))
    assert (found.lost, found.of("gain")) == ("", 0)
    assert not path_in(tmp_path).exists()


def test_a_floor_is_durable_when_raising_returns_and_survives_a_restart(tmp_path: Path) -> None:
    opened(path_in(tmp_path)).raise_to({"gain": 7, "eq": 0})
    found = opened(path_in(tmp_path))
    assert (found.of("gain"), found.of("eq"), found.of("leq")) == (7, 0, 0)
    assert path_in(tmp_path).stat().st_mode & 0o777 == 0o600


def test_a_floor_is_never_lowered_and_no_other_is_touched(tmp_path: Path) -> None:
    found = opened(path_in(tmp_path))
    found.raise_to({"gain": 7, "eq": 3})
    found.raise_to({"gain": 6, "eq": 4})
    assert (found.of("gain"), found.of("eq")) == (7, 4)
    assert opened(path_in(tmp_path)).of("gain") == 7


def test_the_disk_is_left_alone_when_nothing_rises(tmp_path: Path) -> None:
    found = opened(path_in(tmp_path))
    found.raise_to({"gain": 7})
    before = path_in(tmp_path).stat().st_ino
    found.raise_to({"gain": 7})
    assert path_in(tmp_path).stat().st_ino == before


@given(st.lists(floors, max_size=6))
def test_floors_only_rise_whatever_comes(
    tmp_path_factory: pytest.TempPathFactory, raises: list[dict[str, int]]
) -> None:
    path = path_in(tmp_path_factory.mktemp("floors"))
    found = opened(path)
    expected: dict[str, int] = {}
    for serials in raises:
        found.raise_to(serials)
        expected.update({name: max(value, expected.get(name, 0)) for name, value in serials.items()})
        again = opened(path)
        assert {name: again.of(name) for name in expected} == expected


@given(floors)
def test_floors_read_back_as_they_were_written(found: dict[str, int]) -> None:
    assert decode(encode(found, cluster=CLUSTER, rack=RACK), cluster=CLUSTER, rack=RACK) == (found, {})


def test_fields_of_a_later_release_are_kept_when_a_floor_rises(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    path.write_bytes(encode({"gain": 7}, cluster=CLUSTER, rack=RACK, extra=LATER))
    for serial in (8, 9):
        opened(path).raise_to({"gain": serial})
    assert path.read_bytes() == encode({"gain": 9}, cluster=CLUSTER, rack=RACK, extra=LATER)


def test_fields_of_a_later_release_that_leave_no_room_make_the_floors_full(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    room = LIMITS.module_floors_bytes - len(encode({"gain": 7}, cluster=CLUSTER, rack=RACK))
    path.write_bytes(encode({"gain": 7}, cluster=CLUSTER, rack=RACK, extra={"Later": bytes(room - 20)}))
    found = opened(path)
    with pytest.raises(ModuleError) as caught:
        found.raise_to({"one-that-has-a-long-name": 1})
    assert caught.value.code == "floors_full"
    found.raise_to({"gain": 8})
    assert opened(path).of("gain") == 8


@given(floors, st.data())
def test_a_flipped_bit_anywhere_is_found(found: dict[str, int], data: st.DataObject) -> None:
    damaged = bytearray(encode(found, cluster=CLUSTER, rack=RACK))
    bit = data.draw(st.integers(0, len(damaged) * 8 - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        decode(bytes(damaged), cluster=CLUSTER, rack=RACK)


@given(floors, st.data())
def test_a_file_cut_short_is_found(found: dict[str, int], data: st.DataObject) -> None:
    whole = encode(found, cluster=CLUSTER, rack=RACK)
    with pytest.raises(DecodeError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))], cluster=CLUSTER, rack=RACK)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends"),
        (b"garbage", r"\w"),
        (encode({"gain": 7}, cluster="other", rack=RACK), "cluster 'other'"),
        (encode({"gain": 7}, cluster=CLUSTER, rack="stage-right"), "rack 'stage-right'"),
        (encode({"Not A Name": 7}, cluster=CLUSTER, rack=RACK), "not a legal module name"),
        (encode({"gain": 7}, cluster=CLUSTER, rack=RACK).replace(b"gain", b"gait"), "does not match"),
        (cbor.encode({"Payload": b"", "Sum": bytes(32), "More": 1}), "does not match"),
    ],
)
def test_after_damage_no_module_is_admitted_until_the_mixer_has_said(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = path_in(tmp_path)
    path.write_bytes(content)
    found = opened(path)
    with pytest.raises(ModuleError, match=reason) as caught:
        found.of("gain")
    assert caught.value.code == "floors_lost"
    assert "mixer" in str(caught.value.remedy)
    with pytest.raises(ModuleError):
        found.raise_to({"gain": 8})
    assert path.read_bytes() == content
    found.restore()
    assert (found.lost, found.of("gain")) == ("", 0)
    found.raise_to({"gain": 8})
    assert opened(path).of("gain") == 8


def test_floors_that_were_not_read_yet_admit_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModuleError) as caught:
        SerialFloors(path_in(tmp_path), cluster=CLUSTER, rack=RACK).of("gain")
    assert caught.value.code == "floors_lost"


def test_restoring_what_is_not_lost_changes_nothing(tmp_path: Path) -> None:
    found = opened(path_in(tmp_path))
    found.raise_to({"gain": 7})
    found.restore()
    assert opened(path_in(tmp_path)).of("gain") == 7


def test_a_link_in_the_files_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(encode({}, cluster=CLUSTER, rack=RACK))
    path_in(tmp_path).symlink_to(elsewhere)
    assert opened(path_in(tmp_path)).lost


def test_a_fifo_in_the_files_place_holds_up_nothing(tmp_path: Path) -> None:
    os.mkfifo(path_in(tmp_path))
    assert "plain" in opened(path_in(tmp_path)).lost


def test_a_floor_that_cannot_be_kept_is_an_error_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(path_in(tmp_path))
    found.raise_to({"gain": 7})

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageError):
            found.raise_to({"gain": 8})
    assert found.of("gain") == 7
    assert opened(path_in(tmp_path)).of("gain") == 7


def test_floors_are_bounded_in_number(tmp_path: Path) -> None:
    found = opened(path_in(tmp_path))
    found.raise_to({f"module-{number}": 1 for number in range(LIMITS.module_floors)})
    with pytest.raises(ModuleError) as caught:
        found.raise_to({"one-more": 1})
    assert caught.value.code == "floors_full"
    found.raise_to({"module-0": 2})
    assert opened(path_in(tmp_path)).of("module-0") == 2


def test_the_largest_floors_fit_their_limit() -> None:
    most = {f"{number:063d}": 2**64 - 1 for number in range(LIMITS.module_floors)}
    assert len(encode(most, cluster="c" * 63, rack="r" * 63)) <= LIMITS.module_floors_bytes


def test_the_bytes_in_the_reference_are_those_that_are_written() -> None:
    text = (Path(__file__).parents[4] / "docs" / "reference" / "module-state.md").read_text()
    assert encode({"gain": 7, "eq": 3}, cluster=CLUSTER, rack=RACK).hex() in text
    assert summed.encode({"Floor": 1_767_312_000_000_000_000}).hex() in text
