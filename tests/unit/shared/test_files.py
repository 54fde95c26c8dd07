from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stagebox import files
from stagebox.errors import KeyFileError, StorageError

Writer = Callable[[Path, bytes], None]


def fail_after(calls: int, code: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``real`` that raises ``code`` from call number ``calls`` on."""
    seen = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > calls:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return patched


@pytest.fixture(params=[files.write_atomic, files.write_new], ids=["atomic", "new"])
def write(request: pytest.FixtureRequest) -> Writer:
    chosen: Writer = request.param
    return chosen


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_has_its_bytes_and_its_mode_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o777)
    try:
        files.write_atomic(tmp_path / "a", b"one", mode=mode)
        files.write_new(tmp_path / "b", b"two", mode=mode)
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes() == b"onetwo"
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {mode}


def test_an_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    for data in (b"old", b"new" * 100_000, b""):
        files.write_atomic(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_new(path, b"old")
    with pytest.raises(KeyFileError, match="never overwritten"):
        files.write_new(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("operation", ["write", "fsync", "open", "fchmod"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_is_a_storage_error_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer, operation: str, code: int
) -> None:
    path = tmp_path / "state.flux"
    with monkeypatch.context() as patch:
        patch.setattr(os, operation, fail_after(0, code, getattr(os, operation)))
        with pytest.raises(StorageError, match=os.strerror(code)) as caught:
            write(path, b"new")
    assert str(path) in caught.value.message
    assert str(tmp_path) in (caught.value.remedy or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operation", ["write", "fsync", "open", "fchmod"])
def test_the_old_file_survives_a_failed_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    path = tmp_path / "state.flux"
    files.write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, operation, fail_after(0, errno.ENOSPC, getattr(os, operation)))
        with pytest.raises(StorageError):
            files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["state.flux"]


def test_a_disk_that_fills_in_the_middle_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.flux"
    files.write_atomic(path, b"old")
    short = fail_after(3, errno.ENOSPC, lambda descriptor, data: real(descriptor, data[:10]))
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(StorageError, match="No space left"):
            files.write_atomic(path, bytes(100))
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer) -> None:
    real = os.write
    data = os.urandom(1000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, view: real(descriptor, view[:7]))
        write(tmp_path / "a", data)
    assert (tmp_path / "a").read_bytes() == data


def test_a_rename_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.flux"
    files.write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_after(0, errno.EXDEV, Path.replace))
        with pytest.raises(StorageError):
            files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_data_is_synced_before_the_rename_and_the_directory_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "state.flux", []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noting_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noting_fsync)
        patch.setattr(Path, "replace", noting_replace)
        files.write_atomic(path, b"new")
    assert steps == ["file", "rename", "directory"]


def test_no_descriptor_is_left_by_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_after(0, errno.EIO, os.fsync))
        for _ in range(20):
            with pytest.raises(StorageError):
                files.write_atomic(tmp_path / "a", b"x")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_missing_directory_is_named(tmp_path: Path, write: Writer) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*gone"):
        write(tmp_path / "gone" / "a", b"x")


def test_a_private_directory_is_closed_to_others(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    files.make_private_dir(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o750)
    files.make_private_dir(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot create the directory"):
        files.make_private_dir(tmp_path / "file")


def test_a_directory_that_takes_no_files_is_found_early_and_names_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.check_writable_dir(tmp_path, "--state-dir")
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail_after(0, errno.EACCES, os.open))
        with pytest.raises(StorageError, match="not writable: Permission denied") as caught:
            files.check_writable_dir(tmp_path, "--state-dir")
    assert "--state-dir" in (caught.value.remedy or "")
    with pytest.raises(StorageError, match="not writable"):
        files.check_writable_dir(tmp_path / "missing", "--state-dir")
