"""Folds repeated refusals, so that noise on the command subject cannot flood the journal. Pure: no clock of its own.

The first refusal of a reason is told at once, the others within the window only counted and told as one when it ends.
Reasons are codes of this software, so their number is bounded.
"""

from __future__ import annotations


class RefusalFold:
    """The open windows."""

    def __init__(self) -> None:
        self._folded: dict[str, int] = {}

    def admit(self, reason: str) -> bool:
        """Tell whether to report this refusal now; if so, its window is open until :meth:`close`."""
        if reason in self._folded:
            self._folded[reason] += 1
            return False
        self._folded[reason] = 0
        return True

    def close(self, reason: str) -> int:
        """End the window; return how many refusals were only counted."""
        return self._folded.pop(reason, 0)
