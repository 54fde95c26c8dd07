"""What a shell offers for an option whose values are known beforehand. Nobody is asked over a network for it."""

from __future__ import annotations

from collections.abc import Callable


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Return the completion of a closed set of values, in their order."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete
