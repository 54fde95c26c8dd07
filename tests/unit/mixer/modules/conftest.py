"""What several tests of the mixer's modules start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cluster import Cluster
from support.module_bench import Bench
from support.modules import VENDOR
from support.patched import trust


@pytest.fixture
def bench(cluster: Cluster, tmp_path: Path) -> Bench:
    trust(tmp_path / "keys", VENDOR)
    return Bench(cluster, tmp_path / "keys")
