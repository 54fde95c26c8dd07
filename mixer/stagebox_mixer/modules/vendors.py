"""The directory of trusted vendors: one root file a vendor, ``<data>/wasm/keys/*.toml``.

It is looked at anew at each use, and read again where something changed; there is no watcher. Whoever can write a file
here decides whose code runs on racks, so a file that others may write, or that is not plainly a file of ours, is as
good as none, and so is one that cannot be read or parsed: that vendor is not trusted, the log says so once, and the
list shows it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from stagebox.control.denylist import DenyList
from stagebox.errors import InputError
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.vendor_root import VendorRoot, parse
from stagebox.modules.verification import VendorTrust
from stagebox_mixer.limits import LIMITS

log = structlog.get_logger()

_SUFFIX = ".toml"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_Stamp = tuple[int, ...]


@dataclass(frozen=True)
class ListedVendor:
    """One file of the directory: a root, or why there is none. ``problem`` is empty if the root is in use."""

    file: str
    root: VendorRoot | None
    problem: str = ""


class Vendors:
    """The roots in ``directory``, which may be missing: then nobody is trusted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[str, _Stamp] | None = None
        self._read: dict[str, tuple[_Stamp, ListedVendor]] = {}
        self._listed: tuple[ListedVendor, ...] = ()
        self._roots: dict[bytes, VendorRoot] = {}

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

    def all(self) -> tuple[ListedVendor, ...]:
        """Return every file by name, those that cannot be used too."""
        self._look()
        return self._listed

    def find(self, key_id: bytes, /) -> VendorRoot | None:
        """Return the root of that key id, a revoked one too, or None."""
        self._look()
        return self._roots.get(key_id)

    def under(self, denied: DenyList) -> VendorTrust:
        """Return the roots as they are now; a vendor that is on ``denied`` is revoked, whatever its file says."""
        self._look()
        return _Under(dict(self._roots), denied)

    def _look(self) -> None:
        """Read what changed since the last look."""
        try:
            found = dict(self._stamps())
            problem = _problem_of_directory(self._directory)
        except FileNotFoundError:
            found, problem = {}, ""
        except OSError as error:
            found, problem = {}, f"the directory cannot be read: {error.strerror}"
        if problem:
            found = {".": (hash(problem),)}
        if found == self._seen:
            return
        before, self._seen = self._listed, found
        listed = [ListedVendor(".", None, problem)] if problem else self._load(found)
        self._listed = tuple(_without_doubles(listed))
        self._roots = {item.root.key_id: item.root for item in self._listed if item.root and not item.problem}
        _tell(before, self._listed, self._directory)

    def _stamps(self) -> Iterator[tuple[str, _Stamp]]:
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) and not entry.name.startswith("."):
                    yield entry.name, _stamp(entry.stat(follow_symlinks=False))

    def _load(self, found: dict[str, _Stamp]) -> list[ListedVendor]:
        names = sorted(found)
        listed = []
        for name in names[: LIMITS.vendor_roots]:
            held = self._read.get(name)
            if held is None or held[0] != found[name]:
                held = self._read[name] = (found[name], _read_root(self._directory / name))
            listed.append(held[1])
        too_many = f"more than {LIMITS.vendor_roots} files are here"
        listed += [ListedVendor(name, None, too_many) for name in names[LIMITS.vendor_roots :]]
        self._read = {name: held for name, held in self._read.items() if name in found}
        return listed


class _Under:
    def __init__(self, roots: Mapping[bytes, VendorRoot], denied: DenyList) -> None:
        self._roots = roots
        self._denied = denied

    def find(self, key_id: bytes, /) -> VendorRoot | None:
        root = self._roots.get(key_id)
        if root is None or self._denied.matches_module((), (key_id,)) is None:
            return root
        return replace(root, revoked=True, reason=root.reason or "the vendor is on the deny list")


def _stamp(found: os.stat_result) -> _Stamp:
    # Not by its time alone, which whoever changes a file can set back; the time of its inode they cannot.
    return (
        found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size, found.st_mode, found.st_uid,
    )  # fmt: skip


def _problem_of_directory(directory: Path) -> str:
    found = directory.stat()
    if found.st_mode & _WRITABLE_BY_OTHERS:
        return "the directory can be written by others than its owner: chmod go-w it"
    return _problem_of_owner(found)


def _problem_of_owner(found: os.stat_result) -> str:
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}, neither to root nor to the mixer's own"
    return ""


def _read_root(path: Path) -> ListedVendor:
    try:
        # A pipe or a link here is nobody's honest doing, and must not hold the mixer up.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            problem = _problem_of_file(found)
            if problem:
                return ListedVendor(path.name, None, problem)
            data = file.read(FORMAT.max_vendor_root_bytes + 1)
        return ListedVendor(path.name, parse(data.decode("utf-8"), path.name))
    except UnicodeDecodeError:
        return ListedVendor(path.name, None, f"{path.name} is not UTF-8")
    except OSError as error:
        return ListedVendor(path.name, None, f"it cannot be read: {error.strerror}")
    except InputError as error:
        return ListedVendor(path.name, None, error.message)


def _problem_of_file(found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    if found.st_mode & _WRITABLE_BY_OTHERS:
        return "it can be written by others than its owner: chmod go-w it"
    return _problem_of_owner(found)


def _without_doubles(listed: list[ListedVendor]) -> Iterator[ListedVendor]:
    """Two files with one key would leave it to luck which of them holds, so neither does."""
    count = Counter(item.root.key_id for item in listed if item.root is not None)
    for item in listed:
        if item.root is not None and count[item.root.key_id] > 1:
            yield replace(item, problem="another file has the same key: keep one of them")
        else:
            yield item


def _tell(before: tuple[ListedVendor, ...], now: tuple[ListedVendor, ...], directory: Path) -> None:
    known = {(item.file, item.problem) for item in before}
    for item in now:
        if item.problem and (item.file, item.problem) not in known:
            log.warning("vendor_root_unusable", file=str(directory / item.file), problem=item.problem)
    log.info("vendor_roots", usable=sum(not item.problem for item in now), listed=len(now))
