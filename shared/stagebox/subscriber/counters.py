"""What a subscriber counted."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Counters:
    """Counts of one stream, or the sum over all of a subscriber.

    ``received`` = verified + pending + unverifiable + unverified + bad + duplicates + skipped + overruns. Those
    ``unverified`` were not to be verified, those ``skipped`` are of kinds that this software does not know. ``lost``
    are gaps in the sequence numbers between received records; ``checkpoint_gaps`` the same for checkpoints.
    ``overruns`` were received but dropped because the consumer was too slow.
    """

    received: int = 0
    verified: int = 0
    pending: int = 0
    unverifiable: int = 0
    unverified: int = 0
    bad: int = 0
    duplicates: int = 0
    skipped: int = 0
    overruns: int = 0
    lost: int = 0
    checkpoints: int = 0
    checkpoint_gaps: int = 0
    bad_checkpoints: int = 0

    def add(self, other: Counters) -> None:
        """Add another's counts to these."""
        for entry in fields(self):
            setattr(self, entry.name, getattr(self, entry.name) + getattr(other, entry.name))
