from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox import cbor, envelope, passport
from stagebox.errors import PassportError
from stagebox.identity import RackId
from stagebox.limits import LIMITS
from stagebox.passport import Passport, PassportStatus

CLUSTER, RACK, OTHER = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
PINNED = bytes(CLUSTER.verify_key)
SECRET = "the-bearer-secret-of-this-rack"
GOOD = Passport(
    cluster_id="flux-prod",
    machine_id=0xFFFF_FFFF_FFFF_FFFF,
    name="stage-left",
    tenant="default",
    status=PassportStatus.ACTIVE,
    secret=SECRET,
    cluster_public=PINNED,
    rack_public=bytes(RACK.verify_key),
    serial=7,
    issued_at=1_767_312_000_000_000_000,
    not_after=1_798_848_000_000_000_000,
)
DATA = passport.issue(GOOD, CLUSTER)
FIELDS: dict[str, Any] = cbor.decode(GOOD.encode(), max_bytes=10_000)


def signed(fields: dict[str, Any]) -> bytes:
    """A passport with these fields, properly signed by the pinned cluster."""
    return envelope.seal(envelope.DOMAIN_PASSPORT, cbor.encode(fields), CLUSTER)


UINT64 = st.integers(0, (1 << 64) - 1)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES, UINT64, UINT64, UINT64, st.sampled_from(PassportStatus), st.text(max_size=60))
def test_what_is_issued_verifies_to_the_same_passport(
    cluster: str, name: str, machine: int, serial: int, issued: int, status: PassportStatus, secret: str
) -> None:
    made = dataclasses.replace(
        GOOD, cluster_id=cluster, name=name, tenant=name, machine_id=machine, serial=serial,
        issued_at=issued, status=status, secret=secret,
    )  # fmt: skip
    assert passport.verify(passport.issue(made, CLUSTER), PINNED) == made
    assert made.rack_id == RackId(cluster, name, name)


def test_a_flipped_bit_anywhere_is_refused() -> None:
    for position in range(len(DATA)):
        damaged = bytearray(DATA)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(PassportError):
            passport.verify(bytes(damaged), PINNED)


def test_every_truncation_is_refused() -> None:
    for length in range(len(DATA)):
        with pytest.raises(PassportError, match="damaged"):
            passport.verify(DATA[:length], PINNED)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_passport_error(data: bytes) -> None:
    with pytest.raises(PassportError):
        passport.verify(data, PINNED)


def test_another_clusters_passport_is_refused() -> None:
    foreign = passport.issue(dataclasses.replace(GOOD, cluster_public=bytes(OTHER.verify_key)), OTHER)
    assert passport.verify(foreign, bytes(OTHER.verify_key)).name == GOOD.name
    with pytest.raises(PassportError, match="not signed by the pinned cluster"):
        passport.verify(foreign, PINNED)


def test_the_embedded_cluster_key_is_never_what_is_trusted() -> None:
    forged = passport.issue(dataclasses.replace(GOOD, serial=99), OTHER)  # embeds the pinned key
    with pytest.raises(PassportError, match="not signed by the pinned cluster"):
        passport.verify(forged, PINNED)
    with pytest.raises(PassportError, match="embeds another cluster key"):
        passport.verify(signed({**FIELDS, "ClusterPublic": bytes(OTHER.verify_key)}), PINNED)


def test_a_signature_for_another_purpose_makes_no_passport() -> None:
    for domain in (envelope.DOMAIN_CHECKPOINT, envelope.DOMAIN_WAL, envelope.DOMAIN_SEAL):
        with pytest.raises(PassportError):
            passport.verify(envelope.seal(domain, GOOD.encode(), CLUSTER), PINNED)


@pytest.mark.parametrize("version", [0, 2, 1 << 63])
def test_an_unknown_version_is_refused_with_what_to_do(version: int) -> None:
    with pytest.raises(PassportError, match=f"version {version}") as caught:
        passport.verify(signed({**FIELDS, "Version": version, "New": 1}), PINNED)
    assert "upgrade" in (caught.value.remedy or "")


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(PassportError, match=f"no '{name}'"):
        passport.verify(signed({key: value for key, value in FIELDS.items() if key != name}), PINNED)


@pytest.mark.parametrize("name", sorted(FIELDS))
@pytest.mark.parametrize("wrong", [None, True, -1, 1.5, [], {}, b"", "", 1 << 65])
def test_a_field_of_the_wrong_type_or_range_is_refused(name: str, wrong: Any) -> None:
    if name == "Secret" and wrong == "":
        return  # text: a secret that no mixer hash matches
    with pytest.raises(PassportError):
        passport.verify(signed({**FIELDS, name: wrong}), PINNED)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda key: key not in FIELDS),
        st.integers(-5, 1 << 40) | st.text(max_size=10) | st.lists(st.booleans(), max_size=3),
        max_size=4,
    )
)
def test_unknown_fields_are_kept_when_a_passport_is_written_again(extra: dict[str, Any]) -> None:
    found = passport.verify(signed({**FIELDS, **extra}), PINNED)
    assert found.extra == extra
    assert found.encode() == cbor.encode({**FIELDS, **extra})


def test_an_unknown_field_never_overrides_a_known_one() -> None:
    sly = dataclasses.replace(GOOD, extra={"Name": "stage-right", "Version": 2})
    assert passport.verify(passport.issue(sly, CLUSTER), PINNED).name == "stage-left"


def test_the_secret_is_in_no_repr_and_no_error(tmp_path: Path) -> None:
    assert SECRET not in repr(GOOD)
    assert SECRET not in str(GOOD)
    path = tmp_path / "state.flux"
    for damaged in (
        DATA[:-1],
        DATA.replace(b"stage-left", b"stage-l\0ft"),
        signed({**FIELDS, "Serial": SECRET}),
    ):
        path.write_bytes(damaged)
        with pytest.raises(PassportError) as caught:
            passport.read(path, PINNED)
        assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_passport_is_bound_to_its_machine_and_its_key() -> None:
    own = bytes(RACK.verify_key)
    passport.check_binding(GOOD, machine_id=GOOD.machine_id, rack_public=own)
    with pytest.raises(PassportError, match="belongs to another machine") as caught:
        passport.check_binding(GOOD, machine_id=GOOD.machine_id - 1, rack_public=own)
    assert "copied disk" in (caught.value.remedy or "")
    with pytest.raises(PassportError, match="another identity key"):
        passport.check_binding(GOOD, machine_id=GOOD.machine_id, rack_public=bytes(OTHER.verify_key))


def test_reading_a_passport_file_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "state.flux"
    with pytest.raises(PassportError, match=f"no passport {path}") as caught:
        passport.read(path, PINNED)
    assert "enroll" in (caught.value.remedy or "")
    path.write_bytes(DATA)
    assert passport.read(path, PINNED) == GOOD
    path.write_bytes(DATA + bytes(LIMITS.max_passport_bytes))
    with pytest.raises(PassportError, match="larger than"):
        passport.read(path, PINNED)
    with pytest.raises(PassportError, match="Is a directory"):
        passport.read(tmp_path, PINNED)


def test_a_bad_passport_stops_a_rack_with_exit_code_78() -> None:
    assert PassportError.exit_code == 78
