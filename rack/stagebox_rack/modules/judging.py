"""Judges the files of many inserts at once: gets the bytes, asks the guard, raises the serial floors. Blocks.

Order: every file is verified; then the floors of what passed are raised, durably; then what another insert's file put
below the floor is refused after all. So a rack runs files of one serial of a module, and it does not depend on the
order in which they came. A file that was fetched is stored only once it is admitted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import structlog

from stagebox.control.denylist import DenyList
from stagebox.errors import ModuleError, StorageError
from stagebox.files import make_private_dir
from stagebox.modules.patch import Insert
from stagebox_rack.modules.guard import Admitted, Guard, recheck
from stagebox_rack.modules.library import ModuleLibrary
from stagebox_rack.modules.serials import SerialFloors

log = structlog.get_logger()


@dataclass(frozen=True)
class Verdict:
    """What becomes of one insert: admitted, or why not.

    ``missing``: its file has to be fetched, ``error`` says what was wrong with a copy found here. ``later``: the file
    is good as far as is known, and is judged again.
    """

    admitted: Admitted | None = None
    error: ModuleError | None = None
    missing: bool = False
    later: bool = False


class Judge:
    """Guard, library and floors of one rack."""

    def __init__(self, guard: Guard, library: ModuleLibrary, floors: SerialFloors) -> None:
        self._guard = guard
        self.library = library
        self.floors = floors

    def judge(
        self,
        inserts: Iterable[Insert],
        *,
        fetched: Mapping[bytes, bytes],
        held: Mapping[bytes, bytes],
        fitting: Collection[bytes],
        denied: DenyList | None,
        now_ns: int,
    ) -> dict[str, Verdict]:
        """Return a verdict for each insert, by id. ``fetched`` are files just fetched, ``held`` in memory, by digest.

        ``fitting`` are the digests that this rack has room for: no other file is read, asked for or kept.
        ``denied`` is None if it is not known what is denied: nothing is admitted then.
        """
        files = _Files(self.library, fetched, held)
        inserts = tuple(inserts)
        verdicts = {
            insert.id: self._verdict(insert, files, denied, now_ns)
            if insert.digest in fitting
            else Verdict(error=_no_room(insert))
            for insert in inserts
        }
        self._raise_floors(verdicts)
        if denied is not None:
            self._refuse_older(verdicts, denied, now_ns)
        for insert in inserts:
            if insert.digest in fetched and verdicts[insert.id].admitted is not None:
                self._keep(insert, fetched[insert.digest])
        return verdicts

    def load(self) -> None:
        """Make the directory and read the floors. Blocks; what cannot be read is lost, not an error."""
        try:
            make_private_dir(self.library.directory)
        except StorageError as error:
            log.warning("module_directory_unusable", reason=error.message)
        self.floors.load()

    def _verdict(self, insert: Insert, files: _Files, denied: DenyList | None, now_ns: int) -> Verdict:
        try:
            floor = self.floors.of(insert.module)
            if denied is None:
                raise ModuleError(
                    "deny_list_lost",
                    "it is not known what is denied: the deny list held is damaged",
                    remedy="modules are refused until the mixer has sent its own, at the next connection",
                )
            data = files.get(insert.digest)
            if data is None:
                return Verdict(missing=True)
            return Verdict(self._guard.admit(data, insert, denied=denied, floor=floor, now_ns=now_ns))
        except StorageError as error:
            # A link, say, where the file should be. The name is free for a good copy then.
            self.library.discard(insert.digest)
            return Verdict(error=ModuleError("unreadable", error.message), missing=True)
        except ModuleError as error:
            damaged = error.code == "wrong_digest" and files.is_stored(insert.digest)
            if damaged:
                self.library.discard(insert.digest)
            return Verdict(error=error, missing=damaged)

    def _raise_floors(self, verdicts: dict[str, Verdict]) -> None:
        highest: dict[str, int] = {}
        for module in _admitted(verdicts).values():
            highest[module.name] = max(module.serial, highest.get(module.name, 0))
        try:
            if highest:
                self.floors.raise_to(highest)
        except StorageError as error:
            self._hold_back(verdicts, ModuleError("floor_not_kept", error.message, remedy=error.remedy))
        except ModuleError as error:
            self._hold_back(verdicts, error)

    def _hold_back(self, verdicts: dict[str, Verdict], error: ModuleError) -> None:
        """Admit nothing whose floor could not be kept; what ran here before may run again."""
        for insert_id, module in _admitted(verdicts).items():
            if module.serial != self.floors.of(module.name):
                verdicts[insert_id] = Verdict(error=error, later=True)

    def _refuse_older(self, verdicts: dict[str, Verdict], denied: DenyList, now_ns: int) -> None:
        for insert_id, module in _admitted(verdicts).items():
            try:
                recheck(module, denied=denied, floor=self.floors.of(module.name), now_ns=now_ns)
            except ModuleError as error:
                verdicts[insert_id] = Verdict(error=error)

    def _keep(self, insert: Insert, data: bytes) -> None:
        try:
            self.library.write(insert.digest, data)
        except StorageError as error:
            # It runs from memory; without a mixer it would not be here after a restart.
            log.warning("module_not_kept", module=insert.module, reason=error.message)


class _Files:
    """The bytes of each digest, the same object for every insert that names it: fetched, in memory, or stored."""

    def __init__(
        self, library: ModuleLibrary, fetched: Mapping[bytes, bytes], held: Mapping[bytes, bytes]
    ) -> None:
        self._library = library
        self._known: dict[bytes, bytes | None] = {**held, **fetched}
        self._stored: set[bytes] = set()

    def get(self, digest: bytes) -> bytes | None:
        if digest not in self._known:
            self._known[digest] = self._library.read(digest)
            self._stored.add(digest)
        return self._known[digest]

    def is_stored(self, digest: bytes) -> bool:
        """Whether the bytes came from the library."""
        return digest in self._stored


def _no_room(insert: Insert) -> ModuleError:
    return ModuleError(
        "modules_full",
        f"the files before it in the sheet leave no room for that of {insert.module!r}, {insert.size} bytes",
        remedy="assign fewer or smaller modules to this rack",
    )


def _admitted(verdicts: Mapping[str, Verdict]) -> dict[str, Admitted]:
    return {key: verdict.admitted for key, verdict in verdicts.items() if verdict.admitted is not None}
