"""Verdicts on the files of a whole sheet: the same whichever order they come in, and durable before anything runs."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest

from stagebox.control.denylist import DenyList
from stagebox.errors import StorageError
from stagebox.modules.patch import Insert
from stagebox_rack.modules import serials
from stagebox_rack.modules.guard import Guard
from stagebox_rack.modules.judging import Judge, Verdict
from stagebox_rack.modules.library import ModuleLibrary
from stagebox_rack.modules.serials import SerialFloors
from support.issuer import CLUSTER, RACK
from support.module_scene import ISSUER, insert, module
from support.modules import NOW

ONE, TWO, THREE = (module(version=f"{number}.0.0", serial=number) for number in (1, 2, 3))
LIMITER = module(name="limiter", serial=9)
NOBODY = DenyList(CLUSTER)


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.floors = SerialFloors(directory / "serials.cbor", cluster=CLUSTER, rack=RACK)
        self.library = ModuleLibrary(directory)
        self.judge = Judge(Guard(CLUSTER, ISSUER.public), self.library, self.floors)
        self.judge.load()

    def verdicts(
        self,
        *inserts: Insert,
        fetched: tuple[bytes, ...] = (),
        beyond: tuple[bytes, ...] = (),
        denied: DenyList | None = NOBODY,
    ) -> dict[str, Verdict]:
        files = {digest(data): data for data in fetched}
        fitting = {insert.digest for insert in inserts} - {digest(data) for data in beyond}
        return self.judge.judge(inserts, fetched=files, held={}, fitting=fitting, denied=denied, now_ns=NOW)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "modules")


def codes(verdicts: dict[str, Verdict]) -> dict[str, str]:
    return {key: found.error.code if found.error is not None else "" for key, found in verdicts.items()}


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_of_many_files_of_a_module_the_highest_serial_alone_is_admitted_in_any_order(
    bench: Bench, order: tuple[int, ...]
) -> None:
    files = {1: ONE, 2: TWO, 3: THREE}
    asked = [insert(files[number], f"eq-{number}", version=f"{number}.0.0") for number in order]
    found = bench.verdicts(
        *asked, insert(LIMITER, "limit", module="limiter"), fetched=(ONE, TWO, THREE, LIMITER)
    )
    assert codes(found) == {"eq-1": "downgrade", "eq-2": "downgrade", "eq-3": "", "limit": ""}
    assert (bench.floors.of("gain"), bench.floors.of("limiter")) == (3, 9)


def test_a_file_that_is_admitted_is_stored_and_one_that_is_not_is_not(bench: Bench) -> None:
    found = bench.verdicts(insert(ONE, "a"), insert(TWO, "b", version="9.9.9"), fetched=(ONE, TWO))
    assert codes(found) == {"a": "", "b": "wrong_module_version"}
    assert bench.library.read(digest(ONE)) == ONE
    assert bench.library.read(digest(TWO)) is None
    assert bench.floors.of("gain") == 1


def test_two_inserts_of_one_file_share_its_bytes(bench: Bench) -> None:
    bench.library.write(digest(ONE), ONE)
    found = bench.verdicts(insert(ONE, "a"), insert(ONE, "b", params={"gain": 2.0}))
    first, second = (found[key].admitted for key in "ab")
    assert first is not None
    assert second is not None
    assert first.data is second.data


def test_a_file_that_is_nowhere_is_missing_and_no_error(bench: Bench) -> None:
    assert bench.verdicts(insert(ONE)) == {"eq": Verdict(missing=True)}


def test_an_altered_file_is_refused_and_its_place_is_free_for_a_good_one(bench: Bench) -> None:
    bench.library.write(digest(ONE), ONE[:-1] + b"\0")
    found = bench.verdicts(insert(ONE))["eq"]
    assert (found.admitted, found.missing, codes({"eq": found})) == (None, True, {"eq": "wrong_digest"})
    assert bench.library.read(digest(ONE)) is None


def test_a_link_in_a_files_place_is_refused_and_its_place_is_free_for_a_good_one(bench: Bench) -> None:
    (bench.directory / "elsewhere").write_bytes(ONE)
    bench.library.path(digest(ONE)).symlink_to(bench.directory / "elsewhere")
    found = bench.verdicts(insert(ONE))["eq"]
    assert (found.admitted, found.missing, codes({"eq": found})) == (None, True, {"eq": "unreadable"})
    assert bench.library.read(digest(ONE)) is None
    assert (bench.directory / "elsewhere").read_bytes() == ONE


def test_a_sheet_that_says_another_size_discards_no_good_file(bench: Bench) -> None:
    bench.library.write(digest(ONE), ONE)
    found = bench.verdicts(insert(ONE, size=len(ONE) + 1))
    assert codes(found) == {"eq": "wrong_size"}
    assert bench.library.read(digest(ONE)) == ONE


def test_while_the_disk_keeps_no_floor_only_what_ran_before_is_admitted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert codes(bench.verdicts(insert(ONE), fetched=(ONE,))) == {"eq": ""}

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(serials, "write_atomic", full)
    found = bench.verdicts(insert(ONE, "a"), insert(LIMITER, "b", module="limiter"), fetched=(LIMITER,))
    assert codes(found) == {"a": "", "b": "floor_not_kept"}
    assert found["b"].later
    assert bench.library.read(digest(LIMITER)) is None


def test_nothing_is_admitted_while_nobody_knows_what_is_denied_or_what_ran(bench: Bench) -> None:
    assert codes(bench.verdicts(insert(ONE), fetched=(ONE,), denied=None)) == {"eq": "deny_list_lost"}
    assert bench.floors.of("gain") == 0
    (bench.directory / "serials.cbor").write_bytes(b"damaged")
    bench.judge.load()
    assert codes(bench.verdicts(insert(ONE), fetched=(ONE,))) == {"eq": "floors_lost"}
    assert bench.library.read(digest(ONE)) is None


def test_a_directory_that_cannot_be_made_admits_nothing(tmp_path: Path) -> None:
    (tmp_path / "modules").write_bytes(b"a file")
    bench = Bench(tmp_path / "modules")
    assert codes(bench.verdicts(insert(ONE), fetched=(ONE,))) == {"eq": "floors_lost"}


def test_a_file_that_there_is_no_room_for_is_refused_unread_and_not_kept_and_others_are_admitted(
    bench: Bench,
) -> None:
    unread = bench.library.path(digest(TWO))
    unread.mkdir()  # reading it would be another refusal
    asked = [insert(ONE, "a"), insert(LIMITER, "b", module="limiter"), insert(TWO, "c", version="2.0.0")]
    found = bench.verdicts(*asked, fetched=(ONE, LIMITER), beyond=(LIMITER, TWO))
    assert codes(found) == {"a": "", "b": "modules_full", "c": "modules_full"}
    assert not any(verdict.missing or verdict.later for verdict in found.values())
    assert bench.library.read(digest(LIMITER)) is None
    assert (bench.floors.of("gain"), bench.floors.of("limiter")) == (1, 0)
