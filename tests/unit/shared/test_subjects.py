from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stagebox import subjects
from stagebox.errors import InputError
from stagebox.subjects import Kind, Subject, UnknownKindError

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"
NAMES = st.text(ALPHABET, min_size=1, max_size=20).filter(lambda name: name[0] != "-" != name[-1])
TOKENS = st.text("abcrk0-_$*>", min_size=1, max_size=8)
LEAVES = {Kind.METER: 1, Kind.AUDIO: 1, Kind.REQUEST: 1, Kind.MODULE: 2}


def of_rack(rack: str, kind: Kind, leaf: str) -> str:
    """Return a rack's subject of any kind; every name after the kind is ``leaf``."""
    return subjects.of_rack(rack, kind, *[leaf] * LEAVES.get(kind, 0))


def nats_matches(pattern: str, subject: str) -> bool:
    """Tell whether a NATS permission covers a subject: ``*`` is one token, ``>`` is one or more at the end."""
    wanted, given_tokens = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">" and index == len(wanted) - 1:
            return len(given_tokens) > index
        if index >= len(given_tokens) or (token != "*" and token != given_tokens[index]):
            return False
    return len(wanted) == len(given_tokens)


def covered(patterns: tuple[str, ...], subject: str) -> bool:
    return any(nats_matches(pattern, subject) for pattern in patterns)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.>", "a.b.c", True), ("a.>", "a", False), ("a.*", "a.b", True), ("a.*", "a.b.c", False),
        ("a.b", "a.b", True), ("a.b", "ab", False), ("a.b", "a", False), (">", "x", True),
    ],
)  # fmt: skip
def test_the_matcher_of_these_tests_follows_nats(pattern: str, subject: str, expected: bool) -> None:
    assert nats_matches(pattern, subject) is expected


@given(NAMES, NAMES, NAMES, st.sampled_from(Kind))
def test_every_subject_parses_back_to_what_it_was_built_of(
    rack: str, leaf: str, out: str, kind: Kind
) -> None:
    names = (leaf, out)[: LEAVES.get(kind, 0)]
    subject = subjects.of_rack(rack, kind, *names)
    assert subjects.parse(subject) == Subject(rack, kind, *names)
    assert str(subjects.parse(subject)) == subject
    assert len(subject.split(".")) == 3 + len(names)


@given(NAMES, NAMES, st.sampled_from(Kind), st.integers(0, 4))
def test_a_kind_is_followed_by_as_many_names_as_it_takes_and_by_no_other_number(
    rack: str, leaf: str, kind: Kind, count: int
) -> None:
    subject = ".".join(("rack", rack, kind.value, *[leaf] * count))
    if count == LEAVES.get(kind, 0):
        assert str(subjects.parse(subject)) == subject
        return
    with pytest.raises(InputError, match="is followed by"):
        subjects.parse(subject)
    if count <= 2:
        with pytest.raises(InputError, match="is followed by"):
            subjects.of_rack(rack, kind, *[leaf] * count)


@pytest.mark.parametrize("kind", Kind)
def test_an_output_without_a_module_is_no_subject(kind: Kind) -> None:
    with pytest.raises(InputError):
        subjects.of_rack("a", kind, None, "leq")


@given(NAMES, st.lists(NAMES, max_size=4), NAMES)
def test_a_kind_of_a_later_release_is_told_from_what_is_no_subject_at_all(
    rack: str, leaves: list[str], kind: str
) -> None:
    assume(kind not in {known.value for known in Kind})
    with pytest.raises(UnknownKindError, match=kind):
        subjects.parse(".".join(("rack", rack, kind, *leaves)))


@pytest.mark.parametrize(
    "subject", ["rack.a.No", "rack.a.", "rack.a.*", "rack.a.>", "rack.A.new", "Rack.a.new"]
)
def test_what_is_no_name_is_no_kind_of_a_later_release(subject: str) -> None:
    with pytest.raises(InputError) as refused:
        subjects.parse(subject)
    assert not isinstance(refused.value, UnknownKindError)


def test_each_builder_makes_the_subject_of_the_table() -> None:
    assert [
        subjects.meter("r", "s"), subjects.audio("r", "b"), subjects.status("r"), subjects.event("r"),
        subjects.alert("r"), subjects.checkpoint("r"), subjects.wal("r"), subjects.command("r"),
        subjects.ack("r"), subjects.request("r", "renew"), subjects.module("r", "spl", "leq"),
    ] == [
        "rack.r.meter.s", "rack.r.audio.b", "rack.r.status", "rack.r.event",
        "rack.r.alert", "rack.r.checkpoint", "rack.r.wal", "mixer.cmd.r", "rack.r.ack", "rack.r.req.renew",
        "rack.r.module.spl.leq",
    ]  # fmt: skip


@given(st.text(max_size=40))
def test_any_text_parses_to_itself_or_is_refused(text: str) -> None:
    for candidate in (text, f"rack.{text}", f"rack.a.{text}"):
        try:
            assert str(subjects.parse(candidate)) == candidate
        except InputError:
            continue


@pytest.mark.parametrize(
    "subject",
    [
        "", "rack", "rack.a", "rack.a.unknown", "rack.a.meter", "rack.a.status.x", "rack.*.status",
        "rack.a.meter.*", "rack.a.>", "rack..status", "mixer.cmd.a", "Rack.a.status", "rack.A.status",
        "rack.a.meter.b.c", "rack.a.status ", "rack.a.meter.",
        "rack.a.module.spl", "rack.a.module.spl.leq.x", "rack.a.module..leq", "rack.a.module.spl.*",
    ],
)  # fmt: skip
def test_what_is_not_in_the_table_is_refused(subject: str) -> None:
    with pytest.raises(InputError):
        subjects.parse(subject)


@pytest.mark.parametrize("name", ["a.b", "*", ">", "", "a b", "A"])
def test_a_name_cannot_smuggle_a_token_or_a_wildcard(name: str) -> None:
    with pytest.raises(InputError):
        subjects.status(name)
    with pytest.raises(InputError):
        subjects.meter("rack", name)
    with pytest.raises(InputError):
        subjects.module("rack", name, "leq")
    with pytest.raises(InputError):
        subjects.module("rack", "spl", name)
    with pytest.raises(InputError):
        subjects.rack_permissions(name, "WAL")


@given(NAMES, NAMES, st.sampled_from(Kind), NAMES)
def test_a_rack_may_publish_under_its_own_name_and_under_no_other(
    rack: str, other: str, kind: Kind, leaf: str
) -> None:
    allowed = subjects.rack_permissions(rack, "WAL").publish
    assert covered(allowed, of_rack(rack, kind, leaf))
    assume(rack != other)
    assert not covered(allowed, of_rack(other, kind, leaf))
    assert not covered(allowed, subjects.command(rack))
    assert not covered(allowed, f"$JS.API.DIRECT.GET.WAL.{subjects.wal(other)}")


@given(NAMES, st.lists(TOKENS, min_size=1, max_size=5))
def test_whatever_a_rack_may_publish_names_that_rack(rack: str, tokens: list[str]) -> None:
    subject = ".".join(tokens)
    for candidate in (subject, f"rack.{subject}", f"$JS.{subject}", f"rack.{rack}.{subject}"):
        if covered(subjects.rack_permissions(rack, "WAL").publish, candidate):
            assert candidate.startswith(f"rack.{rack}.")


@given(NAMES, NAMES, NAMES)
def test_a_rack_hears_only_what_is_meant_for_it(rack: str, other: str, leaf: str) -> None:
    assume(rack != other)
    allowed = subjects.rack_permissions(rack, "WAL").subscribe
    assert covered(allowed, subjects.command(rack))
    assert covered(allowed, f"{subjects.inbox_prefix('rack', rack)}.{leaf}")
    for foreign in (
        subjects.command(other),
        f"{subjects.inbox_prefix('rack', other)}.{leaf}",
        f"{subjects.inbox_prefix('client', rack)}.{leaf}",
        f"_INBOX.{leaf}",
        subjects.meter(other, leaf),
        subjects.meter(rack, leaf),
        "mixer.audit.enroll",
        "$SYS.REQ.USER.AUTH",
    ):
        assert not covered(allowed, foreign), foreign


@given(NAMES, NAMES, st.sampled_from(Kind), NAMES)
def test_a_pending_or_suspended_rack_publishes_status_acks_and_requests_only(
    rack: str, other: str, kind: Kind, leaf: str
) -> None:
    allowed = subjects.limited_rack_permissions(rack)
    wanted = kind in (Kind.STATUS, Kind.ACK, Kind.REQUEST)
    assert covered(allowed.publish, of_rack(rack, kind, leaf)) is wanted
    assume(rack != other)
    assert not covered(allowed.publish, of_rack(other, kind, leaf))
    assert not covered(allowed.publish, f"$JS.API.DIRECT.GET.WAL.{subjects.wal(rack)}")
    assert allowed.subscribe == subjects.rack_permissions(rack, "WAL").subscribe


@given(NAMES, NAMES)
def test_every_rack_hears_the_mixers_announcements(rack: str, other: str) -> None:
    for allowed in (subjects.rack_permissions(rack, "WAL"), subjects.limited_rack_permissions(rack)):
        for subject in (subjects.TRUST, subjects.BEACON, subjects.DENY_LIST, subjects.command(rack)):
            assert covered(allowed.subscribe, subject)
            assert not covered(allowed.publish, subject)
        assert rack == other or not covered(allowed.subscribe, subjects.command(other))
        assert not covered(allowed.subscribe, subjects.request(other, "renew"))
        assert not covered(allowed.subscribe, subjects.ack(other))


@given(NAMES, NAMES, st.sampled_from(Kind))
def test_people_and_tools_read_every_rack_but_not_what_it_asks_and_publish_nothing(
    rack: str, leaf: str, kind: Kind
) -> None:
    allowed = subjects.client_permissions()
    assert allowed.publish == ()
    subject = of_rack(rack, kind, leaf)
    readable = covered(allowed.subscribe, subject) and not covered(allowed.subscribe_deny, subject)
    assert readable is (kind is not Kind.REQUEST)
    for foreign in (
        f"{subjects.inbox_prefix('rack', rack)}.{leaf}",
        subjects.command(rack),
        subjects.DENY_LIST,
    ):
        assert not covered(allowed.subscribe, foreign)


@given(NAMES, NAMES)
def test_the_mixers_patterns_cover_requests_acks_and_commands_of_every_rack(rack: str, verb: str) -> None:
    assert nats_matches(subjects.ALL_REQUESTS, subjects.request(rack, verb))
    assert nats_matches(subjects.ALL_ACKS, subjects.ack(rack))
    assert nats_matches(subjects.ALL_COMMANDS, subjects.command(rack))
    for kind in set(Kind) - {Kind.REQUEST, Kind.ACK}:
        subject = of_rack(rack, kind, verb)
        assert not covered((subjects.ALL_REQUESTS, subjects.ALL_ACKS), subject)
