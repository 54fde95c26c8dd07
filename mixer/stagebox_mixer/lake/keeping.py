"""The lake's housekeeping: each method prepares files and returns the one change that makes them count. Blocking."""

from __future__ import annotations

import time
from collections.abc import Callable

from stagebox.errors import StorageError
from stagebox_mixer.lake.merging import to_merge, to_retire, to_sort
from stagebox_mixer.lake.sorting import date_of, partitioned, times_of
from stagebox_mixer.lake.state import ARRIVALS, Change, State
from stagebox_mixer.lake.streaming import merged
from stagebox_mixer.lake.tables import ARRIVAL_SCHEMA, Partition, Tables, concat
from stagebox_mixer.limits import LIMITS

_DAY_NS = 86_400 * 10**9


class Keeping:
    """What is done to a lake in the background. ``now_ns`` is the wall clock."""

    def __init__(
        self, tables: Tables, *, cluster: str, keep_days: int, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._tables = tables
        self._cluster = cluster
        self._keep_days = keep_days
        self._now_ns = now_ns

    def sort(self, state: State) -> Change | None:
        """Sort arrivals into partitions; None while there is nothing worth it."""
        chosen = to_sort(
            state.of_kind(ARRIVALS),
            now_ns=self._now_ns(),
            age_ns=int(LIMITS.lake_sort_after_s * 1e9),
            most_bytes=LIMITS.lake_sort_bytes,
            min_bytes=LIMITS.lake_sort_bytes // 4,
        )
        if not chosen:
            return None
        arrivals = concat([self._tables.read(file) for file in chosen], ARRIVAL_SCHEMA)
        made = [
            self._tables.write_sorted(table, partition, times_of(table))
            for partition, table in partitioned(arrivals, self._cluster).items()
        ]
        return Change(add=made, remove=[file.path for file in chosen])

    def merge(self, state: State) -> Change | None:
        """Merge small files of one partition; None if none is worth it."""
        chosen = to_merge(
            state.files.values(),
            today=date_of(self._now_ns()),
            small=LIMITS.lake_file_min_bytes,
            most=LIMITS.lake_file_max_bytes,
            together=LIMITS.lake_merge_files,
        )
        if not chosen:
            return None
        first = chosen[0]
        partition = Partition(self._cluster, first.date, first.rack, first.kind)
        made = merged(self._tables, chosen, partition)
        return Change(add=[made], remove=[file.path for file in chosen])

    def retire(self, state: State) -> Change | None:
        """Remove what is older than is to be kept and not under a legal hold; None if there is none."""
        if not self._keep_days:
            return None
        before = date_of(self._now_ns() - self._keep_days * _DAY_NS)
        gone = to_retire(state.files.values(), state.holds, before=before)
        return Change(remove=[file.path for file in gone]) if gone else None

    def sweep(self, state: State) -> Change | None:
        """Delete the files that were removed a while ago, when nobody reads them any more."""
        oldest = self._now_ns() - int(LIMITS.lake_sweep_after_s * 1e9)
        due = [path for path, at in state.dropped.items() if at < oldest]
        try:
            for path in due:
                self._tables.storage.delete(path)
        except OSError as error:
            raise StorageError(f"cannot remove a file of the lake: {error.strerror or error}") from error
        return Change(swept=due) if due else None
