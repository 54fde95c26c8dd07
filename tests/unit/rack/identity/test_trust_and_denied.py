"""What the rack keeps because the cluster signed it: roots and the deny list, newer ones only."""

from __future__ import annotations

from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox.certificates import to_der, to_pem
from stagebox.control.denylist import DenyList
from stagebox.errors import StageboxError, StorageError, VerificationError
from stagebox_rack.identity import denied, trust
from stagebox_rack.identity.denied import DenyListWitness
from stagebox_rack.state import StatePaths
from support.issuer import CLUSTER, Issuer
from support.pki import Ca

ISSUER = Issuer()
OTHER = SigningKey(bytes([9]) * 32)
NEXT_ROOT = Ca("next root")


def check(data: bytes, held_serial: int = 0, roots: bytes = ISSUER.root.pem) -> int:
    bundle, found = trust.check_bundle(
        data, cluster=CLUSTER, cluster_public=ISSUER.public, roots_pem=roots, held_serial=held_serial
    )
    assert to_der(found) == list(bundle.roots)
    return bundle.serial


def test_trust_is_handed_on_by_a_bundle_that_names_a_root_already_trusted() -> None:
    both = tuple(to_der([ISSUER.root.certificate, NEXT_ROOT.certificate]))
    assert check(ISSUER.trust()) == 1
    assert check(ISSUER.trust(roots=both, serial=2), held_serial=1) == 2
    assert check(ISSUER.trust(serial=2), held_serial=2) == 2
    only_next = ISSUER.trust(roots=(both[1],), serial=3)
    assert check(only_next, 2, to_pem([ISSUER.root.certificate, NEXT_ROOT.certificate])) == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ISSUER.trust(serial=1), "older"),
        (ISSUER.trust(serial=3, cluster="other"), "another cluster"),
        (ISSUER.trust(serial=3, cluster_public=bytes(32)), "another cluster key"),
        (ISSUER.trust(serial=3, roots=tuple(to_der([NEXT_ROOT.certificate]))), "no root that this rack"),
        (Issuer(authority=OTHER, root=ISSUER.root).trust(serial=3), "does not verify"),
        (ISSUER.deny_list(3), "does not verify"),
        (b"denied", r"\w"),
    ],
)
def test_another_bundle_changes_no_trust(data: bytes, reason: str) -> None:
    with pytest.raises(StageboxError, match=reason):
        check(data, held_serial=2)


def test_a_crash_between_bundle_and_roots_is_put_right(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    paths.roots.write_bytes(ISSUER.root.pem)
    both = [ISSUER.root.certificate, NEXT_ROOT.certificate]
    paths.trust.write_bytes(ISSUER.trust(roots=tuple(to_der(both)), serial=2))
    trust.heal(paths, ISSUER.public)
    assert paths.roots.read_bytes() == to_pem(both)


def test_a_full_disk_after_such_a_crash_does_not_stop_the_rack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ISSUER.enroll(tmp_path / "state")
    store.paths.trust.write_bytes(ISSUER.trust(serial=9))
    store.paths.roots.write_bytes(ISSUER.root.pem + b"\n")

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(trust, "write_atomic", full)
    assert store.open().main.passport.name == "stage-left"


def test_a_bundle_on_disk_that_does_not_verify_touches_no_root(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    paths.roots.write_bytes(ISSUER.root.pem)
    paths.trust.write_bytes(Issuer(authority=OTHER).trust())
    trust.heal(paths, ISSUER.public)
    assert paths.roots.read_bytes() == ISSUER.root.pem


def witness(path: Path) -> DenyListWitness:
    made = DenyListWitness(path, cluster=CLUSTER, cluster_public=ISSUER.public)
    made.load()
    return made


def test_only_a_newer_deny_list_is_kept_and_it_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "denied.flux"
    found = witness(path)
    assert (found.epoch, found.data) == (0, b"")
    assert found.offer(ISSUER.deny_list(5))
    assert not found.offer(ISSUER.deny_list(5))
    assert not found.offer(ISSUER.deny_list(4))
    assert witness(path).epoch == 5
    assert witness(path).data == ISSUER.deny_list(5)


@pytest.mark.parametrize(
    "forged",
    [ISSUER.deny_list(9, key=OTHER), ISSUER.deny_list(9, cluster="other"), ISSUER.trust(), b"", b"\xa0"],
)
def test_a_forged_deny_list_changes_nothing(tmp_path: Path, forged: bytes) -> None:
    path = tmp_path / "denied.flux"
    found = witness(path)
    found.offer(ISSUER.deny_list(5))
    before = path.read_bytes()
    with pytest.raises(StageboxError):
        found.offer(forged)
    assert (found.epoch, path.read_bytes()) == (5, before)


def test_a_damaged_deny_list_on_disk_counts_as_none_and_a_genuine_one_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "denied.flux"
    path.write_bytes(b"damaged")
    found = witness(path)
    assert found.epoch == 0
    assert path.read_bytes() == b"damaged"
    assert found.offer(ISSUER.deny_list(1))


def test_the_error_says_what_was_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="cluster 'other'"):
        witness(tmp_path / "denied.flux").offer(ISSUER.deny_list(9, cluster="other"))


# The decoded list, by which modules are judged


def test_the_decoded_list_is_that_of_the_newest_and_whoever_asked_is_told(tmp_path: Path) -> None:
    found = witness(tmp_path / "denied.flux")
    told: list[int] = []

    def tell() -> None:
        assert found.list is not None
        told.append(found.list.epoch)

    found.on_newer(tell)
    assert found.list == DenyList(CLUSTER)
    found.offer(ISSUER.deny_list(5))
    found.offer(ISSUER.deny_list(5))
    found.offer(ISSUER.deny_list(4))
    found.offer(ISSUER.deny_list(6))
    assert told == [5, 6]
    again = witness(tmp_path / "denied.flux").list
    assert again is not None
    assert again.epoch == 6


def test_a_list_counts_for_modules_also_when_the_disk_does_not_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = witness(tmp_path / "denied.flux")
    told: list[DenyList | None] = []
    found.on_newer(lambda: told.append(found.list))

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(denied, "write_atomic", full)
        for _ in range(3):
            with pytest.raises(StorageError):
                found.offer(ISSUER.deny_list(5))
    assert (found.epoch, [held.epoch for held in told if held is not None]) == (0, [5])
    assert found.offer(ISSUER.deny_list(5))
    assert (found.epoch, len(told)) == (5, 1)


def test_after_damage_nobody_knows_what_is_denied_until_the_mixer_has_said(tmp_path: Path) -> None:
    path = tmp_path / "denied.flux"
    path.write_bytes(b"damaged")
    assert witness(path).list is None
    found = witness(path)
    found.offer(ISSUER.deny_list(2))
    assert found.list is not None
    path.write_bytes(ISSUER.deny_list(9, key=OTHER))
    settled = witness(path)
    told: list[DenyList | None] = []
    settled.on_newer(lambda: told.append(settled.list))
    settled.settle()
    settled.settle()
    assert told == [DenyList(CLUSTER)]
    assert settled.epoch == 0
