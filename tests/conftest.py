"""What holds for every test: the product's cipher policy, and nothing left behind by tests with real parts."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings

from stagebox.cipher_policy import OPENSSL_CONFIG
from support.cluster import Cluster, make_cluster
from support.leaks import Snapshot, settled_leaks

_HERE = Path(__file__).parent
_REAL_PARTS = ("integration", "e2e", "faults")


# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("stagebox", deadline=None)
settings.load_profile("stagebox")


def pytest_configure(config: pytest.Config) -> None:
    """Start again under the product's OpenSSL configuration.

    OpenSSL reads it once, when it starts, and by now pytest's plugins have started it; the ``stagebox`` command
    sets it before anything else. An ``OPENSSL_CONF`` of the caller's own is kept.
    """
    if "OPENSSL_CONF" in os.environ or not any("pytest" in word for word in sys.orig_argv):
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.stop_global_capturing()
    os.environ["OPENSSL_CONF"] = OPENSSL_CONFIG
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def pytest_unconfigure() -> None:
    """Let the end find what `leak_check` froze: libraries complain about what is never let go."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> None:
    """Check tests with real parts for leaks; the others stay free of an event loop they do not need."""
    if request.path.is_relative_to(_HERE) and request.path.relative_to(_HERE).parts[0] in _REAL_PARTS:
        request.getfixturevalue("leak_check")


@pytest.fixture
async def leak_check() -> AsyncIterator[None]:
    """Fail a test that leaves a task, thread, descriptor or child process behind.

    It is set up before and torn down after the test's own fixtures, so theirs count too; what a wider scope set
    up is in the baseline.
    """
    gc.collect()
    gc.freeze()  # what is alive now need not be looked through again: that took half of the time of these tests
    before = Snapshot.take()
    yield
    found = await settled_leaks(before)
    assert not found, "left behind: " + "; ".join(found)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A whole cluster's keys, made once; tests only read them."""
    return make_cluster(tmp_path_factory.mktemp("cluster"), "flux-test", datetime.now(UTC))
