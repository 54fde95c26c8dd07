"""Which version is the later one, as Semantic Versioning 2.0.0 says."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stagebox_mixer.modules.versions import Precedence

ORDER = (
    "0.9.9", "1.0.0-0", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta",
    "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0-rc-1", "1.0.0", "1.0.1", "1.9.0", "1.10.0", "2.0.0",
)  # fmt: skip


@pytest.mark.parametrize(("older", "newer"), list(pairwise(ORDER)))
def test_a_later_version_comes_after_the_one_before_it(older: str, newer: str) -> None:
    assert Precedence(older) < Precedence(newer)
    assert not Precedence(newer) <= Precedence(older)


def test_what_is_said_of_a_build_does_not_count() -> None:
    assert Precedence("1.0.0+night.5") == Precedence("1.0.0")
    assert Precedence("1.0.0-rc.1+x-y") == Precedence("1.0.0-rc.1")
    assert len({Precedence("1.0.0+a"), Precedence("1.0.0+b"), Precedence("1.0.1")}) == 2
