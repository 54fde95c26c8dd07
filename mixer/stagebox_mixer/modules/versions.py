"""Which of two semantic versions is the later one (2.0.0, item 11). Pure."""

from __future__ import annotations

from functools import total_ordering


@total_ordering
class Precedence:
    """A version as it is compared; build metadata (behind ``+``) does not count."""

    def __init__(self, version: str) -> None:
        """Take a version that :func:`stagebox.modules.statement.check_version` accepts."""
        release, _, pre = version.partition("+")[0].partition("-")
        self._release = tuple(int(number) for number in release.split("."))
        # No pre-release is later than any.
        self._pre = (0 if pre else 1, tuple(_identifier(part) for part in pre.split(".")) if pre else ())

    def __eq__(self, other: object) -> bool:
        """Tell whether neither is later."""
        return isinstance(other, Precedence) and self._key == other._key

    def __lt__(self, other: Precedence) -> bool:
        """Tell whether the other one is later."""
        return self._key < other._key

    def __hash__(self) -> int:
        """Hash what is compared."""
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        return (self._release, self._pre)


def _identifier(part: str) -> tuple[int, int, str]:
    """Numbers come before words and are compared as numbers."""
    return (0, int(part), "") if part.isdigit() else (1, 0, part)
