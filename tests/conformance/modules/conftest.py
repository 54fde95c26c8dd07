"""Each example is built once a session."""

from __future__ import annotations

import pytest

from support.module_builds import Built, build_example


@pytest.fixture(scope="session")
def equaliser(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The parametric equaliser and limiter."""
    return build_example("parametric-eq-limiter", tmp_path_factory.mktemp("modules"))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The noise-event classifier."""
    return build_example("noise-event-classifier", tmp_path_factory.mktemp("modules"))


@pytest.fixture(scope="session")
def spl_logger(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sound level logger."""
    return build_example("spl-logger", tmp_path_factory.mktemp("modules"))
