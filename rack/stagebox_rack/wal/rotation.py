"""A new key-encryption key for a journal, without touching its data. Blocking; takes the journal's lock.

Steps: the new KEK joins the older ones in the key file; every segment's ``.key`` is wrapped anew; the mark is written
anew; what no file names any more is dropped. Rules: before each step everything on disk is readable with the key file
on disk, so a crash between any two leaves a readable journal, and the next call goes on. Hot files keep their header
and are gone once sealed. A file that cannot be judged holds every version.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stagebox import files
from stagebox.errors import DecodeError, StorageError, VerificationError
from stagebox.records.seal import open_seal
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.disk import Disk, unfinished
from stagebox_rack.wal.kek_protection import Keeper, Protection
from stagebox_rack.wal.keyring import KEY_BYTES, NONCE_BYTES, Keyring, Random, load_keyring
from stagebox_rack.wal.layout import HOT_SUFFIX, Layout, Lock
from stagebox_rack.wal.mark import MarkFile
from stagebox_rack.wal.segment_key import decode_key, encode_key, key_context, open_key

KEY_SUFFIX: Final = ".key"


@dataclass(frozen=True)
class Rotation:
    """What a call did. ``held`` names, by older version, the files that still need it."""

    version: int
    protection: Protection
    created: bool
    rewrapped: int
    dropped: tuple[int, ...]
    held: dict[int, tuple[str, ...]]


def rotate(
    directory: Path,
    public: bytes,
    earlier: Collection[bytes] = (),
    *,
    protection: Protection = Protection.AUTO,
    keeper: Keeper | None = None,
    random: Random = os.urandom,
    disk: Disk | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Rotation:
    """Begin a new KEK version, or finish the rotation before it while a segment or hot file needs an older one.

    ``public`` and ``earlier`` are the rack's identity keys; ``on_step`` hears of each step once it is durable.

    Raises:
        StorageError: the rack runs, the disk refuses, or the journal is another user's.
        KeyFileError: the key file cannot be used, or what shall protect it is not there.
        VerificationError: the key file is not this journal's.
    """
    layout = Layout(directory)
    layout.require_owner()  # the TPM, too, must open for that user
    lock = Lock(layout.root / "lock")
    lock.acquire()
    try:
        keeper, disk = keeper or Keeper.of_environment(), disk or Disk()
        return _Work(layout, public, earlier, keeper, random, disk, on_step).run(protection)
    except OSError as error:
        raise StorageError(
            f"cannot change the journal's keys: {error.strerror or error}",
            remedy="the journal is still readable; free space or repair the disk, then call this again",
        ) from error
    finally:
        lock.release()


@dataclass(frozen=True)
class _Work:
    """One rotation, with the lock held."""

    layout: Layout
    public: bytes
    earlier: Collection[bytes]
    keeper: Keeper
    random: Random
    disk: Disk
    on_step: Callable[[str], None]

    def run(self, asked: Protection) -> Rotation:
        ring = load_keyring(self.layout.kek, self.keeper)
        self.layout.make(self.disk)
        protection = self.keeper.choose(asked)
        self._prove(ring)
        if len(ring.versions) > 1:
            done = self._finish(ring, protection, created=False)
            hot = [path for path in self.layout.hot_files() if key_version(path) != ring.version]
            if done.rewrapped or done.dropped or hot:
                return done
            # Only what was set aside needs the older ones: that must not keep a new one from being made.
        return self._finish(self._begin(ring, protection), protection, created=True)

    def _finish(self, stored: Keyring, protection: Protection, *, created: bool) -> Rotation:
        rewrapped = sum(self._rewrap(path, stored) for path in self._keys())
        self._mark(stored)
        held = self._users(stored)
        ring = stored.keeping(held, protection)
        if ring != stored:
            self._save(ring)
            self.on_step("dropped")
        dropped = tuple(version for version in stored.versions if version not in ring.versions)
        still = {version: held[version] for version in ring.versions[:-1]}
        return Rotation(ring.version, protection, created, rewrapped, dropped, still)

    def _begin(self, ring: Keyring, protection: Protection) -> Keyring:
        if len(ring.versions) >= LIMITS.wal_kek_versions:
            raise StorageError(
                f"the journal holds {len(ring.versions)} key versions, as many as it can",
                remedy=f"archive what is in {self.layout.quarantine} and move it away",
            )
        renewed = ring.renewed(self.random(KEY_BYTES)).keeping(ring.versions, protection)
        self._save(renewed)
        self.on_step("added")
        return renewed

    def _save(self, ring: Keyring) -> None:
        files.write_atomic(self.layout.kek, ring.encode(self.keeper, self.random))

    def _prove(self, ring: Keyring) -> None:
        """Change nothing with a key file that opens nothing here."""
        if not self.layout.has_data() or MarkFile(self.layout.mark, ring, self.disk).load() is not None:
            return
        if not any(self._opens(path, ring) for path in (*self.layout.hot_files(), *self._keys())):
            raise VerificationError(
                f"the key file {self.layout.kek} opens nothing of the journal beside it",
                remedy="put back the wal/kek.key that this journal was written with",
            )

    def _opens(self, path: Path, ring: Keyring) -> bool:
        try:
            if path.suffix == HOT_SUFFIX:
                return bool(_hot_header(path).unwrap(ring, path.name))
            return bool(open_key(path.read_bytes(), ring, self._context(path), path.name))
        except (DecodeError, VerificationError, FileNotFoundError):
            return False

    def _rewrap(self, path: Path, ring: Keyring) -> bool:
        """Wrap a segment's data key anew; one that does not open keeps what it has, and its KEK."""
        try:
            data = path.read_bytes()
            if decode_key(data)[0] == ring.version:
                return False
            context = self._context(path)
            dek = open_key(data, ring, context, path.name)
        except (DecodeError, VerificationError, FileNotFoundError):
            return False
        temporary = unfinished(path)  # recovery removes it
        wrapped = ring.wrap(dek, context, self.random(NONCE_BYTES))
        self.disk.write_file(temporary, encode_key(ring, wrapped))
        self.on_step("key_written")
        self.disk.rename(temporary, path)
        self.disk.sync_dir(path.parent)
        self.on_step("key_named")
        return True

    def _context(self, key: Path) -> bytes:
        seal = open_seal(key.with_suffix(".seal").read_bytes(), self.public, self.earlier)
        return key_context(seal.rack, seal.first, seal.last, seal.file_id)

    def _mark(self, ring: Keyring) -> None:
        """Write the mark under the newest KEK into both slots, one after the other."""
        file = MarkFile(self.layout.mark, ring, self.disk)
        mark = file.load()
        if mark is None:
            return
        try:
            for _ in range(2):
                file.write(mark)
                file.sync()
                self.on_step("mark_written")
        finally:
            file.close()

    def _users(self, ring: Keyring) -> dict[int, tuple[str, ...]]:
        """Return the files that name each held version."""
        users: dict[int, list[str]] = {}
        for path in (*self.layout.hot_files(), *self._keys(), *self._quarantined()):
            version = key_version(path)
            for number in ring.versions if version is None else (version,):
                users.setdefault(number, []).append(path.name)
        return {number: tuple(names) for number, names in users.items()}

    def _keys(self) -> list[Path]:
        return sorted(self.layout.segments.glob(f"[0-9]*{KEY_SUFFIX}"))

    def _quarantined(self) -> Iterator[Path]:
        for path in sorted(self.layout.quarantine.iterdir()):
            if Path(path.stem).suffix in (HOT_SUFFIX, KEY_SUFFIX):
                yield path


def key_version(path: Path) -> int | None:
    """Return the KEK version a file names; None where it does not say."""
    try:
        if HOT_SUFFIX in path.suffixes:
            return _hot_header(path).kek_version
        return decode_key(path.read_bytes())[0]
    except DecodeError:
        return None


def _hot_header(path: Path) -> fmt.HotHeader:
    with path.open("rb") as stream:
        return fmt.decode_header(stream.read(fmt.HEADER_BYTES))
