"""A cluster to look at, made once: its files are only read by the tests that share it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stagebox_keys.cluster import generate_cluster
from stagebox_keys.mixer_keys import MixerKeys, load_mixer_keys

PASSPHRASE = b"correct horse"


@pytest.fixture(scope="session")
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="session")
def cluster_dir(tmp_path_factory: pytest.TempPathFactory, now: datetime) -> Path:
    directory = tmp_path_factory.mktemp("keys") / "cluster"
    generate_cluster(directory, "venue", PASSPHRASE, now)
    return directory


@pytest.fixture(scope="session")
def mixer_keys(cluster_dir: Path, now: datetime) -> MixerKeys:
    return load_mixer_keys(cluster_dir / "mixer", PASSPHRASE, now=now)
