"""What a journal needs to be whole again, decided from what was read of it alone. Pure: no I/O.

Rules: what verifies where it lies stays. What was put aside comes back only where nothing else is, and only if its
chain agrees with every neighbour and it has one. Nothing that may hold a record is dropped: what does not verify, or
fits nowhere, is set aside. Hot files are sealed in order, before any segment behind them: a start takes a hot file
that lies before the last segment for one that was sealed.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from stagebox.records.walbatch import FIRST_PREVIOUS, FIRST_SEQUENCE
from stagebox_rack.wal.repair_reading import HotRead, JournalRead, Piece, Range, SegmentRead


@dataclass(frozen=True)
class SetAside:
    """Move files to quarantine."""

    name: ClassVar = "set_aside"
    files: tuple[Path, ...]
    first: int
    last: int
    reason: str

    def __str__(self) -> str:
        return f"set aside {_names(self.files)} (records {self.first}-{self.last}): {self.reason}"


@dataclass(frozen=True)
class PutBack:
    """Bring a segment's seal, key and data back under their own names."""

    name: ClassVar = "put_back"
    files: tuple[Path, ...]
    first: int
    last: int

    def __str__(self) -> str:
        return f"put back {_names(self.files)} (records {self.first}-{self.last})"


@dataclass(frozen=True)
class SealHot:
    """Make segments of these ranges of a hot file."""

    name: ClassVar = "seal"
    files: tuple[Path, ...]
    ranges: tuple[Range, ...]

    @property
    def first(self) -> int:
        """The first record of them all."""
        return self.ranges[0][0]

    def __str__(self) -> str:
        shown = ", ".join(f"{first}-{last}" for first, last in self.ranges)
        return f"seal records {shown} of {_names(self.files)}"


@dataclass(frozen=True)
class Finish:
    """Do what a start does: remove what was left unfinished and what is in segments already."""

    name: ClassVar = "finish"
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"finish what was interrupted; goes: {_names(self.files) or 'nothing'}"


@dataclass(frozen=True)
class WriteMark:
    """Write the high-water mark anew, at the journal's end."""

    name: ClassVar = "write_mark"
    end: Piece

    def __str__(self) -> str:
        return f"write the high-water mark anew at record {self.end.last}"


Action = SetAside | PutBack | SealHot | Finish | WriteMark


@dataclass(frozen=True)
class Plan:
    """What to do, in order, and which ranges stay missing after it."""

    actions: tuple[Action, ...]
    missing: tuple[Range, ...]


def plan(read: JournalRead) -> Plan:
    """Return what makes whole of a journal what can be, and what cannot."""
    return _Planning(read).run()


@dataclass
class _Planning:
    """One decision over one reading. ``kept`` is what the journal will be, in order."""

    read: JournalRead
    kept: list[Piece] = field(default_factory=list)

    def run(self) -> Plan:
        for read in self.read.segments:
            if read.whole is not None and read.in_place:
                self._keep(read.whole)
        self._keep_what_fits(self._place_hot())
        kept = set(self.kept)
        damaged = {hot.path: reason for hot in self.read.hot if (reason := self._damage(hot))}
        seals = self._seals(kept, damaged)
        back = [
            PutBack(it.whole.files, it.first, it.last)
            for it in self.read.segments
            if it.whole is not None and it.whole in kept and not it.in_place
        ]
        no_part = [it for it in self.read.segments if it.here and not _part_of(it.whole, it.here, kept)]
        unfinished = [it for it in no_part if self._interrupted(it, kept, seals)]
        moved = [
            SetAside(it.here, it.first, it.last, it.reason or "it overlaps another segment")
            for it in no_part
            if it not in unfinished
        ]
        hot = [
            SetAside((it.path,), it.first, self._last(it), damaged[it.path])
            for it in self.read.hot
            if it.path in damaged and not it.aside
        ]
        rest = (*(path for it in unfinished for path in it.here), *self._spent(kept, damaged, seals))
        finish = Finish((*self.read.leftovers, *rest))
        mark = [WriteMark(self.kept[-1])] if self.read.mark is None and self.kept else []
        made: list[PutBack | SealHot] = [*back, *seals]
        made.sort(key=lambda step: step.first)
        actions: list[Action] = [*moved, *made, *hot]
        if actions or finish.files or mark:
            actions += [finish, *mark]
        return Plan(tuple(actions), self._missing([(it.first, it.last) for it in (*moved, *hot)]))

    def _neighbours(self, piece: Piece) -> tuple[Piece | None, Piece | None]:
        at = bisect_right(self.kept, piece.first, key=lambda kept: kept.first)
        return (self.kept[at - 1] if at else None), (self.kept[at] if at < len(self.kept) else None)

    def _keep(self, piece: Piece) -> bool:
        before, after = self._neighbours(piece)
        if (before and before.last >= piece.first) or (after and after.first <= piece.last):
            return False
        insort(self.kept, piece, key=lambda kept: kept.first)
        return True

    def _covers(self, piece: Piece) -> bool:
        before, _ = self._neighbours(piece)
        return before is not None and before.last >= piece.last

    def _place_hot(self) -> list[Piece]:
        """Keep the batches of hot files; return what must prove that it fits."""
        candidates = [it.whole for it in self.read.segments if it.whole is not None and not it.in_place]
        candidates += [batch for hot in self.read.hot if hot.aside for batch in hot.batches]
        limit = 1 << 64
        for hot in sorted((it for it in self.read.hot if not it.aside), key=lambda it: -it.first):
            for batch in hot.batches:
                # A batch that was written twice (its first file failed) counts in the later file.
                if batch.last >= limit or not self._keep(batch):
                    candidates.append(batch)
            limit = hot.first if hot.batches else limit
        return candidates

    def _keep_what_fits(self, candidates: list[Piece]) -> None:
        waiting = sorted(candidates, key=lambda piece: piece.first)
        while True:
            left = [piece for piece in waiting if not (self._fits(piece) and self._keep(piece))]
            if len(left) == len(waiting):
                return
            waiting = left

    def _fits(self, piece: Piece) -> bool:
        before, after = self._neighbours(piece)
        mark = self.read.mark
        joins = [piece.previous == FIRST_PREVIOUS] if piece.first == FIRST_SEQUENCE else []
        if before is not None and before.last + 1 == piece.first:
            joins.append(before.head == piece.previous)
        if after is not None and piece.last + 1 == after.first:
            joins.append(piece.head == after.previous)
        if mark is not None and mark.sequence == piece.last:
            joins.append(mark.digest == piece.head)
        return bool(joins) and all(joins)

    def _damage(self, hot: HotRead) -> str:
        """Return why a hot file must not simply be dropped once it is sealed."""
        if hot.damage or hot.aside:
            return hot.damage
        if not all(map(self._covers, hot.batches)):
            return "it holds records that fit nowhere"
        last = hot.batches[-1].last if hot.batches else hot.first - 1
        mark = self.read.mark
        ends = mark is not None and mark.sequence <= last
        follows = any(piece.first == last + 1 for piece in self.kept)
        return "" if not hot.torn or ends or follows else "its end is torn, and records are missing after it"

    def _seals(self, kept: Collection[Piece], damaged: Collection[Path]) -> list[SealHot]:
        """Return which hot files to seal: the damaged, and those before the end of what is or will be sealed."""
        mine = [(hot, [batch for batch in hot.batches if batch in kept]) for hot in self.read.hot]
        ends = [it.last for it in self.read.segments if it.whole in kept]
        ends += [own[-1].last for hot, own in mine if own and (hot.aside or hot.path in damaged)]
        end = max(ends, default=0)
        return [SealHot((hot.path,), _ranges(own)) for hot, own in mine if own and own[0].first <= end]

    def _interrupted(self, it: SegmentRead, kept: Collection[Piece], seals: Sequence[SealHot]) -> bool:
        """Whether it is a seal that never was finished: what it was made from is still there."""
        if any(path.suffix == ".seal" for path in it.here):
            return False
        inside = [batch for hot in self.read.hot if not hot.aside for batch in hot.batches if batch in kept]
        begins, ends = {batch.first for batch in inside}, {batch.last for batch in inside}
        again = any((it.first, it.last) in step.ranges for step in seals)
        return again or (it.first in begins and it.last in ends)

    def _spent(
        self, kept: Collection[Piece], damaged: Collection[Path], seals: Sequence[SealHot]
    ) -> list[Path]:
        """Return the hot files that hold nothing of their own, or will not once they are sealed."""
        sealed = {path for step in seals for path in step.files}
        rest = [hot for hot in self.read.hot if not hot.aside and hot.path not in damaged]
        return [hot.path for hot in rest if hot.path in sealed or not any(b in kept for b in hot.batches)]

    def _last(self, hot: HotRead) -> int:
        """Return the last record a hot file can have held."""
        after = [piece.first - 1 for piece in self.kept if piece.first > hot.first]
        told = [self.read.mark.sequence] if self.read.mark is not None else []
        return hot.batches[-1].last if hot.batches else max([hot.first, *(after[:1] or told)])

    def _missing(self, lost: Sequence[Range]) -> tuple[Range, ...]:
        """Return the holes, the end that is known of, and what was lost right before the journal's start."""
        ranges = sorted({*lost, *self.read.quarantined}, reverse=True)
        if not self.kept and not ranges:
            return ((FIRST_SEQUENCE, self.read.mark.sequence),) if self.read.mark is not None else ()
        holes = [(a.last + 1, b.first - 1) for a, b in pairwise(self.kept) if a.last + 1 < b.first]
        end = self.kept[-1].last if self.kept else ranges[-1][0] - 1
        ends = [last for _, last in ranges] if self.read.mark is None else [self.read.mark.sequence]
        known = max(ends, default=0)
        if known > end:
            holes.append((end + 1, known))
        start = self.kept[0].first if self.kept else 0
        for first, last in ranges:
            if first < start <= last + 1:
                holes, start = [(first, start - 1), *holes], first
        return tuple(holes)


def _part_of(whole: Piece | None, here: Collection[Path], kept: Collection[Piece]) -> bool:
    return whole is not None and whole in kept and set(here) <= set(whole.files)


def _ranges(batches: Sequence[Piece]) -> tuple[Range, ...]:
    found: list[Range] = []
    for batch in batches:
        if found and found[-1][1] + 1 == batch.first:
            found[-1] = found[-1][0], batch.last
        else:
            found.append((batch.first, batch.last))
    return tuple(found)


def _names(files: Sequence[Path]) -> str:
    return ", ".join(path.name for path in files)
