from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from stagebox.errors import InputError, KeyFileError
from stagebox_keys.inspection import inspect
from stagebox_keys.mixer_keys import MixerKeys

PASSPHRASE = b"correct horse"


def test_a_whole_cluster_is_described_without_an_error(cluster_dir: Path, now: datetime) -> None:
    found = inspect(cluster_dir, PASSPHRASE, now)
    assert [facts for facts in found if "error" in facts] == []
    kinds = {str(facts["kind"]) for facts in found}
    assert {"private key", "public key", "CA certificate", "cluster", "NATS account token"} <= kinds


def test_no_secret_is_shown(cluster_dir: Path, mixer_keys: MixerKeys, now: datetime) -> None:
    shown = json.dumps(inspect(cluster_dir, PASSPHRASE, now))
    for nkey in (mixer_keys.nats.callout, mixer_keys.nats.auth.signing, mixer_keys.nats.system.signing):
        assert nkey.seed() not in shown
        assert nkey.private.private_bytes_raw().hex() not in shown
    for key in cluster_dir.rglob("*.key"):
        for line in re.findall(r"^[A-Za-z0-9+/=]{24,}$", key.read_text(), re.MULTILINE):
            assert line not in shown


def test_an_encrypted_key_is_described_without_its_passphrase(cluster_dir: Path, now: datetime) -> None:
    [facts] = inspect(cluster_dir / "mixer" / "authority.key", None, now)
    assert facts["encrypted"] is True
    assert facts["mode"] == "0600"
    assert "algorithm" not in facts


def test_the_public_half_is_that_of_cluster_pub(cluster_dir: Path, now: datetime) -> None:
    [private] = inspect(cluster_dir / "mixer" / "authority.key", PASSPHRASE, now)
    [public] = inspect(cluster_dir / "cluster.pub", None, now)
    assert private["public"] == public["public"]


def test_an_expired_certificate_is_called_so(cluster_dir: Path, now: datetime) -> None:
    path = cluster_dir / "ca.pem"
    assert [facts["state"] for facts in inspect(path, None, now)] == ["valid"]
    assert inspect(path, None, now + timedelta(days=4000))[0]["state"] == "expired"
    assert inspect(path, None, now - timedelta(days=1))[0]["state"] == "not yet valid"


def test_a_token_with_a_broken_signature_is_not_described(
    cluster_dir: Path, tmp_path: Path, now: datetime
) -> None:
    head, _, signature = (cluster_dir / "mixer" / "nats" / "auth.jwt").read_text().strip().rpartition(".")
    (tmp_path / "t.jwt").write_text(f"{head}.{signature[::-1]}")
    with pytest.raises(Exception, match="signature"):
        inspect(tmp_path / "t.jwt", None, now)


def test_a_directory_lists_what_it_cannot_describe(tmp_path: Path, now: datetime) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    [facts] = inspect(tmp_path, None, now)
    assert "no key, certificate" in str(facts["error"])


def test_strangers_are_refused(tmp_path: Path, now: datetime) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x").write_bytes(b"\x00\xff")
    with pytest.raises(InputError):
        inspect(tmp_path / "empty", None, now)
    with pytest.raises(InputError):
        inspect(tmp_path / "x", None, now)
    with pytest.raises(KeyFileError):
        inspect(tmp_path / "absent", None, now)


def test_a_truncated_certificate_is_called_damaged(cluster_dir: Path, tmp_path: Path, now: datetime) -> None:
    (tmp_path / "c.pem").write_bytes((cluster_dir / "ca.pem").read_bytes()[:200])
    with pytest.raises(KeyFileError):
        inspect(tmp_path / "c.pem", None, now)
