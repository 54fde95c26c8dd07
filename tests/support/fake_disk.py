"""A disk that forgets: :meth:`FakeDisk.cut` loses, tears and reorders what was never synced, as a power cut does.

Content lives in real files, so that readers are the real ones; what is fake is durability. The rules are those of a
file system without any favours: a write counts once its file was synced, in sectors until then; a name counts once
its directory was synced, and names of one directory may become durable in any order that keeps the order of
operations on the same name. A rename is never half done. A sync that failed has lost what it should have written,
and says nothing the next time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stagebox_rack.wal.disk import Disk

SECTOR_BYTES = 512


class PowerCutError(BaseException):
    """The machine stopped: call :meth:`FakeDisk.cut`, then start anew."""


class KilledError(BaseException):
    """The process stopped; what it wrote is still in the kernel."""


@dataclass
class Fault:
    """What happens at the ``after``-th operation from now on, counted among those named (all, if none are)."""

    effect: type[BaseException] | int
    after: int
    operations: frozenset[str] = frozenset()
    times: int = 1


@dataclass(frozen=True)
class _Name:
    """One change of names that is not durable yet; ``replaced`` keeps what was under ``target`` before."""

    source: Path | None
    target: Path
    replaced: Path | None

    @property
    def names(self) -> set[Path]:
        return {name for name in (self.source, self.target) if name is not None}


@dataclass(frozen=True)
class _Write:
    """What a write replaced: ``before`` at ``offset`` in a file that was ``size`` long."""

    descriptor: int
    offset: int
    before: bytes
    size: int


@dataclass
class FakeDisk(Disk):
    """``attic`` is a directory on the same file system, for what may have to come back."""

    attic: Path
    source: random.Random
    faults: list[Fault] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    _names: list[_Name] = field(default_factory=list)
    _writes: dict[int, list[_Write]] = field(default_factory=dict)
    _open: set[int] = field(default_factory=set)
    _kept: int = 0

    def create(self, path: Path) -> int:
        self._fail("create")
        descriptor = super().create(path)
        self._open.add(descriptor)
        self._names.append(_Name(None, path, None))
        return descriptor

    def open(self, path: Path) -> int:
        self._fail("open")
        descriptor = super().open(path)
        self._open.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        super().close(descriptor)

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        code = self._due("pwrite")
        if code in (None, errno.ENOSPC) or not isinstance(code, int):
            # A full disk, a kill and a power cut all may come after a part.
            part = data if code is None else data[: self.source.randrange(len(data) + 1)]
            if part:
                self._remember(descriptor, len(part), offset)
                written = super().pwrite(descriptor, part, offset)
                if code in (None, errno.ENOSPC):
                    return written
        self._raise(code)
        raise AssertionError("a fault raises")

    def datasync(self, descriptor: int) -> None:
        code = self._due("datasync")
        if code is None:
            self._forget(os.fstat(descriptor).st_ino)
        elif isinstance(code, int):
            self._take_back(os.fstat(descriptor).st_ino)
        self._raise(code)

    def truncate(self, descriptor: int, size: int) -> None:
        self._fail("truncate")
        length = os.fstat(descriptor).st_size
        self._remember(descriptor, max(0, length - size), size)
        super().truncate(descriptor, size)

    def rename(self, source: Path, target: Path) -> None:
        self._fail("rename")
        replaced = self._keep(target)
        super().rename(source, target)
        self._names.append(_Name(source, target, replaced))

    def unlink(self, path: Path) -> None:
        self._fail("unlink")
        replaced = self._keep(path)
        if replaced is not None:
            super().unlink(path)
            self._names.append(_Name(None, path, replaced))

    def sync_dir(self, path: Path) -> None:
        self._fail("sync_dir")
        self._names = [change for change in self._names if change.target.parent != path]

    def cut(self) -> None:
        """The power is gone: only what was synced is sure to be there."""
        lost: list[_Name] = []
        blocked: set[Path] = set()
        for change in self._names:
            if change.names & blocked or self.source.random() < 0.5:
                blocked |= change.names
                lost.append(change)
        for change in reversed(lost):
            self._undo(change)
        for inode in list(self._writes):
            self._take_back(inode)
        self._names.clear()
        self.kill()

    def kill(self) -> None:
        """The process is gone: its descriptors are closed, nothing else changes."""
        for descriptor in list(self._open):
            self.close(descriptor)
        self.faults.clear()

    def release(self) -> None:
        """Close every descriptor held for what might have to come back."""
        self.kill()
        for inode in list(self._writes):
            self._forget(inode)

    def _due(self, operation: str) -> type[BaseException] | int | None:
        self.calls[operation] += 1
        for fault in self.faults:
            if fault.operations and operation not in fault.operations:
                continue
            fault.after -= 1
            if fault.after < 0:
                fault.times -= 1
                if not fault.times:
                    self.faults.remove(fault)
                return fault.effect
        return None

    def _fail(self, operation: str) -> None:
        self._raise(self._due(operation))

    def _raise(self, effect: type[BaseException] | int | None) -> None:
        if isinstance(effect, int):
            raise OSError(effect, os.strerror(effect))
        if effect is not None:
            raise effect

    def _remember(self, descriptor: int, length: int, offset: int) -> None:
        status = os.fstat(descriptor)
        before = os.pread(descriptor, length, offset)
        write = _Write(os.dup(descriptor), offset, before, status.st_size)
        self._writes.setdefault(status.st_ino, []).append(write)

    def _forget(self, inode: int) -> None:
        for write in self._writes.pop(inode, []):
            os.close(write.descriptor)

    def _take_back(self, inode: int) -> None:
        """Lose what was written and not synced, each sector by itself."""
        for write in reversed(self._writes.get(inode, [])):
            grown = os.fstat(write.descriptor).st_size - write.size
            before = write.before
            if grown > 0:
                if self.source.random() < 0.5:
                    os.ftruncate(write.descriptor, write.size)
                else:
                    before += bytes(grown)  # blocks that were given and never written
            for start in range(0, len(before), SECTOR_BYTES):
                if self.source.random() < 0.7:
                    os.pwrite(write.descriptor, before[start : start + SECTOR_BYTES], write.offset + start)
        self._forget(inode)

    def _keep(self, path: Path) -> Path | None:
        kept = self.attic / str(self._kept)
        try:
            os.link(path, kept)
        except FileNotFoundError:
            return None
        self._kept += 1
        return kept

    def _undo(self, change: _Name) -> None:
        if change.source is not None:
            change.target.rename(change.source)
        elif change.replaced is None:
            with contextlib.suppress(
                FileNotFoundError
            ):  # renamed into another directory, and that was synced
                change.target.unlink()
        if change.replaced is not None:
            os.link(change.replaced, change.target)
