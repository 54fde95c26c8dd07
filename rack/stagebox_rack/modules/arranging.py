"""What the module service hands over: which admitted module sits where. The hosts are behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from stagebox.modules.patch import Insert
from stagebox_rack.modules.guard import Admitted


@dataclass(frozen=True)
class Placed:
    """An admitted module at the place of its insert."""

    insert: Insert
    module: Admitted


@dataclass(frozen=True)
class Running:
    """How a placed module fares. ``state`` is ``running`` or the host's own word; ``code`` says why it does not run."""

    state: str = "running"
    code: str = ""
    faults: int = 0
    over_budget: int = 0
    bypassed: int = 0


class Arranger(Protocol):
    """The hosts and chains of one rack."""

    async def arrange(self, wanted: tuple[Placed, ...]) -> None:
        """Run exactly ``wanted``, in this order at each point.

        When it returns nothing else is heard any more; what is new may still be starting. So it does not wait for a
        compiler: a denial must come through within a second. Equal entries of the call before go on untouched. It
        is never called twice at a time, and again with the same set after it raised or when sources are captured.
        """
        ...

    async def withdraw(self, gone: Collection[Placed]) -> None:
        """Take these out of all audio now, though something else is being arranged: a revocation waits for nothing.

        When it returns none of them is heard any more, whether it was in use, on its way or just leaving; that takes
        well under a second, whatever the hosts do. The next :meth:`arrange` decides anew. It does not raise.
        """
        ...

    def running(self) -> Mapping[str, Running]:
        """Return how each module placed last fares, by insert id; one that is missing is starting."""
        ...
