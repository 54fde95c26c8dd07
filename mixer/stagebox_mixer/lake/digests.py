"""The digests of committed batches, for the rare batch that comes a second time. Blocking."""

from __future__ import annotations

from typing import Any

from blake3 import blake3

from stagebox_mixer.lake.state import ARRIVALS, BATCHES, State
from stagebox_mixer.lake.tables import Tables


class Digests:
    """The digests of one journal at a time: who comes again comes with many batches in a row."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._read: set[str] = set()
        self._owner: tuple[str, bytes] | None = None
        self._digests: dict[int, bytes] = {}

    def of(self, state: State, rack: str, journal: bytes, first: int) -> bytes | None:
        """Return the digest of the batch that starts at ``first``, None if none does."""
        if self._owner != (rack, journal):
            self._owner, self._read, self._digests = (rack, journal), set(), {}
        for file in (*state.of_kind(BATCHES), *state.of_kind(ARRIVALS)):
            if file.path in self._read or file.rack not in ("", rack):
                continue
            self._read.add(file.path)
            self._take(self._tables.read(file).to_pylist(), rack, journal)
        return self._digests.get(first)

    def _take(self, rows: list[dict[str, Any]], rack: str, journal: bytes) -> None:
        for row in rows:
            if row["journal"] != journal or row.get("rack", rack) != rack:
                continue
            payload = row["payload"]
            digest = row["digest"] if "digest" in row else blake3(payload).digest()
            self._digests[row["first"]] = digest
