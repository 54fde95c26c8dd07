"""The rack's copies of module files: whole, private, bounded, and nothing but what stands under the name."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from stagebox.errors import StorageError
from stagebox.modules.limits import LIMITS
from stagebox_rack.modules.library import ModuleLibrary

DATA = b"\0asm" + bytes(100)
DIGEST = hashlib.sha256(DATA).digest()
OTHER = bytes(32)


@pytest.fixture
def library(tmp_path: Path) -> ModuleLibrary:
    return ModuleLibrary(tmp_path)


def test_a_file_is_kept_whole_under_its_digest_and_for_its_owner_only(library: ModuleLibrary) -> None:
    library.write(DIGEST, DATA)
    assert library.path(DIGEST).name == f"{DIGEST.hex()}.wasm"
    assert library.path(DIGEST).stat().st_mode & 0o777 == 0o600
    assert library.read(DIGEST) == DATA
    assert library.read(OTHER) is None


def test_what_was_changed_on_disk_is_read_as_it_is_for_the_guard_to_refuse(library: ModuleLibrary) -> None:
    library.write(DIGEST, DATA)
    assert library.read(DIGEST) == DATA
    library.path(DIGEST).write_bytes(b"planted")
    assert library.read(DIGEST) == b"planted"
    library.discard(DIGEST)
    library.discard(DIGEST)
    assert library.read(DIGEST) is None


def test_a_huge_file_is_read_only_so_far_that_it_is_too_large(library: ModuleLibrary) -> None:
    with library.path(DIGEST).open("wb") as stream:
        stream.truncate(1 << 40)  # sparse
    found = library.read(DIGEST)
    assert found is not None
    assert len(found) == LIMITS.max_module_bytes + 1


def test_a_link_is_not_followed(library: ModuleLibrary, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(DATA)
    library.path(DIGEST).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot read"):
        library.read(DIGEST)
    library.discard(DIGEST)
    assert library.read(DIGEST) is None
    assert (tmp_path / "elsewhere").read_bytes() == DATA


def test_a_fifo_or_directory_in_the_files_place_holds_up_nothing(library: ModuleLibrary) -> None:
    os.mkfifo(library.path(DIGEST))
    library.path(OTHER).mkdir()
    for digest in (DIGEST, OTHER):
        with pytest.raises(StorageError, match="not a plain file"):
            library.read(digest)
        library.discard(digest)


def test_writing_replaces_a_link_instead_of_what_it_points_at(library: ModuleLibrary, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"precious")
    library.path(DIGEST).symlink_to(tmp_path / "elsewhere")
    library.write(DIGEST, DATA)
    assert library.read(DIGEST) == DATA
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_a_full_disk_leaves_no_half_file(library: ModuleLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageError):
            library.write(DIGEST, DATA)
    assert list(library.directory.iterdir()) == []


def test_pruning_removes_other_modules_and_what_a_power_cut_left_and_nothing_else(
    library: ModuleLibrary,
) -> None:
    library.write(DIGEST, DATA)
    library.write(OTHER, DATA)
    left_over = library.directory / f".{OTHER.hex()}.wasm.0123abcd.tmp"
    state = [library.directory / name for name in ("serials.cbor", ".patch.cbor.0123abcd.tmp", "notes.wasm")]
    for path in (left_over, *state):
        path.write_bytes(b"x")
    library.prune({DIGEST})
    assert set(library.directory.iterdir()) == {library.path(DIGEST), *state}


def test_a_library_that_is_not_there_is_empty(tmp_path: Path) -> None:
    library = ModuleLibrary(tmp_path / "missing")
    assert library.read(DIGEST) is None
    library.prune(())
