from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.errors import ConfigError, InputError, VerificationError
from stagebox.identity import (
    ClientId,
    MixerId,
    RackId,
    Role,
    SpiffeId,
    check_name,
    machine_id,
    parse_spiffe,
)

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"
NAMES = st.text(ALPHABET, min_size=1, max_size=63).filter(lambda name: name[0] != "-" != name[-1])
IDENTITIES = (
    st.builds(RackId, NAMES, NAMES, NAMES)
    | st.builds(ClientId, NAMES, st.sampled_from(Role), NAMES)
    | st.builds(MixerId, NAMES, NAMES)
)


@given(NAMES)
def test_a_legal_name_is_returned_as_it_is(name: str) -> None:
    assert check_name("rack", name) == name


@given(st.text(max_size=70))
def test_whatever_passes_as_a_name_is_one_token_everywhere(text: str) -> None:
    try:
        name = check_name("rack", text)
    except InputError:
        return
    assert 1 <= len(name) <= 63
    assert set(name) <= set(ALPHABET)
    assert name[0] != "-" != name[-1]


@pytest.mark.parametrize(
    "name", ["", "-", "a-", "-a", "A", "a.b", "a/b", "a b", "a*", ">", "..", "a\n", "\na", "ä", "а", "a" * 64]
)
def test_an_illegal_name_is_refused_and_says_what_was_named(name: str) -> None:
    with pytest.raises(InputError, match="legal source name"):
        check_name("source", name)


@given(IDENTITIES)
def test_an_identity_survives_its_uri(identity: SpiffeId) -> None:
    assert parse_spiffe(identity.uri) == identity


@given(IDENTITIES, IDENTITIES)
def test_two_identities_never_share_a_uri(one: SpiffeId, other: SpiffeId) -> None:
    assert (one.uri == other.uri) == (one == other)


@given(st.text(max_size=80) | st.text("spife:/.-tenantrackclientmixer", max_size=60))
def test_any_text_parses_to_itself_or_is_refused(text: str) -> None:
    for candidate in (text, f"spiffe://{text}"):
        try:
            identity = parse_spiffe(candidate)
        except VerificationError:
            continue
        assert identity.uri == candidate


@pytest.mark.parametrize(
    "uri",
    [
        "", "spiffe://", "spiffe://c", "http://c/mixer/m", "SPIFFE://c/mixer/m", "spiffe:/c/mixer/m",
        "spiffe://c/mixer/m/", "spiffe://c/mixer//m", "spiffe://c/mixer/m?x=1", "spiffe://c/mixer/m#x",
        "spiffe://c:1/mixer/m", "spiffe://u@c/mixer/m", "spiffe://C/mixer/m", "spiffe://c/mixer/M",
        "spiffe://c/tenant/t/rack", "spiffe://c/tenant/t/rack/", "spiffe://c/tenant/t/rack/r/x",
        "spiffe://c/rack/r", "spiffe://c/client/root/n", "spiffe://c/client/Viewer/n", "spiffe://c/client/viewer",
        "spiffe://c/mixer/%6d", "spiffe://c/mixer/m\n", " spiffe://c/mixer/m",
    ],
)  # fmt: skip
def test_other_uris_are_nobody(uri: str) -> None:
    with pytest.raises(VerificationError):
        parse_spiffe(uri)


def machine_file(directory: Path, text: str, name: str = "machine-id") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_the_machine_id_is_stable_derived_and_different_for_each_machine(tmp_path: Path) -> None:
    text = "0123456789abcdef0123456789abcdef"
    found = machine_id((machine_file(tmp_path, text + "\n"),))
    assert 0 < found < 1 << 64
    assert machine_id((machine_file(tmp_path, text),)) == found
    assert f"{found:016x}" not in text
    assert machine_id((machine_file(tmp_path, text.replace("0123", "0124")),)) != found


def test_the_second_place_is_used_when_the_first_has_no_machine_id(tmp_path: Path) -> None:
    good = machine_file(tmp_path, "f" * 32, "good")
    for bad in (tmp_path / "missing", machine_file(tmp_path, "uninitialized\n", "bad"), tmp_path):
        assert machine_id((bad, good)) == machine_id((good,))


@pytest.mark.parametrize("text", ["", "uninitialized\n", "f" * 31, "f" * 33, "F" * 32, "g" * 32, "é" * 32])
def test_a_machine_without_an_id_is_an_error_that_says_how_to_get_one(tmp_path: Path, text: str) -> None:
    path = machine_file(tmp_path, text)
    with pytest.raises(ConfigError, match=str(path)) as caught:
        machine_id((path,))
    assert "systemd-machine-id-setup" in (caught.value.remedy or "")
