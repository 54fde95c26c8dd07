"""What a repair decides, from readings made up here."""

from __future__ import annotations

from pathlib import Path

from stagebox_rack.wal.mark import Mark
from stagebox_rack.wal.repair_plan import Finish, PutBack, SealHot, SetAside, WriteMark, plan
from stagebox_rack.wal.repair_reading import HotRead, JournalRead, Piece, SegmentRead


def digest(last: int) -> bytes:
    return last.to_bytes(32, "big")


def piece(first: int, last: int, *files: str, head: bytes | None = None) -> Piece:
    paths = tuple(map(Path, files)) or tuple(
        Path(f"{first}-{last}.{kind}") for kind in ("seal", "key", "parquet")
    )
    head = head if head is not None else digest(last)
    return Piece(first, last, digest(first - 1), head, paths, bytes(32), bytes(16))


def placed(first: int, last: int) -> SegmentRead:
    whole = piece(first, last)
    return SegmentRead(first, last, whole.files[::-1], whole)


def aside(first: int, last: int, head: bytes | None = None) -> SegmentRead:
    return SegmentRead(first, last, (), piece(first, last, "q/seal.1", "q/key.1", "q/parquet.1", head=head))


def hot(*batches: tuple[int, int], damage: str = "", torn: bool = False, at: str = "hot") -> HotRead:
    path = Path(f"{at}/{batches[0][0]}.hot")
    pieces = tuple(piece(first, last, str(path)) for first, last in batches)
    return HotRead(path, batches[0][0], pieces, damage, torn, at != "hot")


def mark(sequence: int) -> Mark:
    return Mark(sequence, digest(sequence), bytes(32), bytes(16))


def test_an_empty_journal_needs_nothing() -> None:
    assert plan(JournalRead()).actions == ()
    assert plan(JournalRead(mark=mark(3))).missing == ((1, 3),)


def test_what_comes_back_joins_a_neighbour_and_agrees_with_each() -> None:
    here = (placed(1, 3), placed(10, 12))
    for found in (aside(4, 6), aside(7, 9), aside(4, 9)):
        assert isinstance(plan(JournalRead(mark(12), (*here, found))).actions[0], PutBack)
    for found in (aside(5, 6), aside(3, 6), aside(4, 9, head=bytes(32)), aside(4, 10)):
        decided = plan(JournalRead(mark(12), (*here, found)))
        assert (decided.actions, decided.missing) == ((), ((4, 9),))


def test_what_joins_only_through_what_comes_back_itself_comes_back_too() -> None:
    found = (placed(1, 3), aside(4, 6), aside(7, 8), aside(11, 12), aside(13, 14))
    decided = plan(JournalRead(mark(14), found))
    assert [a.first for a in decided.actions if isinstance(a, PutBack)] == [4, 7, 11, 13]
    assert decided.missing == ((9, 10),)


def test_the_end_comes_back_only_if_the_mark_knows_it() -> None:
    assert plan(JournalRead(mark(6), (placed(1, 3), aside(4, 6)))).missing == ()
    forked = plan(JournalRead(mark(6), (placed(1, 3), aside(4, 6, head=bytes(32)))))
    assert (forked.actions, forked.missing) == ((), ((4, 6),))


def test_of_a_batch_written_twice_the_later_one_counts_and_the_first_where_that_is_lost() -> None:
    first, later = hot((1, 1), (2, 2), (3, 3)), hot((3, 3), (4, 4))
    assert plan(JournalRead(mark(4), hot=(first, later))).actions == ()
    lost = HotRead(later.path, 3, later.batches[1:], "1 frame does not authenticate")
    decided = plan(JournalRead(mark(4), hot=(first, lost)))
    assert decided.missing == ()
    assert decided.actions == (
        SealHot((first.path,), ((1, 3),)),
        SealHot((later.path,), ((4, 4),)),
        SetAside((later.path,), 3, 4, lost.damage),
        Finish((first.path,)),
    )


def test_hot_files_before_what_will_be_sealed_are_sealed_first() -> None:
    before, broken, behind = hot((1, 2), (3, 3)), hot((4, 4), (6, 6), damage="a hole"), hot((7, 7))
    decided = plan(JournalRead(mark(7), hot=(before, broken, behind)))
    assert [a.files for a in decided.actions if isinstance(a, SealHot)] == [(before.path,), (broken.path,)]
    assert decided.actions[-1] == Finish((before.path,))
    decided = plan(JournalRead(mark(6), (aside(4, 6),), (before,)))
    assert [type(action) for action in decided.actions] == [SealHot, PutBack, Finish]


def test_a_torn_end_is_damage_unless_the_journal_is_known_to_end_or_go_on_there() -> None:
    torn = hot((1, 1), (2, 2), torn=True)
    assert plan(JournalRead(mark(2), hot=(torn,))).actions == ()
    assert plan(JournalRead(mark(3), hot=(torn, hot((3, 3))))).actions == ()
    for decided in (plan(JournalRead(mark(3), hot=(torn,))), plan(JournalRead(hot=(torn,)))):
        assert SetAside in map(type, decided.actions)


def test_a_hot_file_of_which_nothing_is_known_may_hold_all_up_to_what_follows() -> None:
    blind = HotRead(Path("hot/4.hot"), 4, damage="its header")
    for read, missing in (
        (JournalRead(mark(9), (placed(1, 3),), (blind,)), ((4, 9),)),
        (JournalRead(mark(9), (), (blind, hot((7, 9)))), ((4, 6),)),
        (JournalRead(None, (placed(1, 3),), (blind,)), ((4, 4),)),
    ):
        decided = plan(read)
        assert (decided.actions[0].files, decided.missing) == ((blind.path,), missing)  # type: ignore[union-attr]


def test_a_mark_is_written_only_where_none_verifies() -> None:
    decided = plan(JournalRead(None, (placed(1, 3), placed(4, 6))))
    assert decided.actions == (Finish(()), WriteMark(piece(4, 6)))
    assert plan(JournalRead(mark(5), (placed(1, 3), placed(4, 6)))).actions == ()


def test_overlapping_segments_do_not_both_stay_and_what_came_first_does() -> None:
    decided = plan(JournalRead(mark(6), (placed(1, 3), placed(2, 6))))
    assert [a.first for a in decided.actions if isinstance(a, SetAside)] == [2]
    assert decided.missing == ((4, 6),)


def test_what_was_lost_before_the_start_is_told_as_long_as_it_joins() -> None:
    read = JournalRead(mark(9), (placed(7, 9),), quarantined=((1, 2), (4, 6)))
    assert plan(read).missing == ((4, 6),)


def test_a_hot_file_with_records_that_fit_nowhere_is_never_dropped() -> None:
    other = HotRead(Path("hot/2.hot"), 2, (piece(2, 7, "hot/2.hot"),))
    (kept, _) = plan(JournalRead(mark(6), (placed(1, 3), placed(4, 6)), (other,))).actions
    assert isinstance(kept, SetAside)
    assert kept.files == (other.path,)
