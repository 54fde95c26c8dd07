"""The checkpoints of one rack as a chain per boot: gaps are counted, a fork is an error. Pure.

Within a boot each checkpoint names the hash of the one before it. Live checkpoints may be lost (a gap) or,
around a reconnect, arrive late or twice; two different ones with one number, or one that names another
predecessor than the one received, mean that somebody signed two histories.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field

from stagebox.errors import VerificationError
from stagebox.records.checkpoint import FIRST_PREVIOUS, Checkpoint
from stagebox.subscriber.limits import SubscriberLimits


class Place(enum.Enum):
    """Where an accepted checkpoint stands."""

    NEW = "new"
    DUPLICATE = "duplicate"
    STALE = "stale"


@dataclass
class _Boot:
    last: int
    links: OrderedDict[int, tuple[bytes, bytes]] = field(
        default_factory=OrderedDict
    )  # seq → (hash, previous)


class CheckpointChain:
    """What was seen of one rack's checkpoints."""

    def __init__(self, limits: SubscriberLimits) -> None:
        self._window = limits.chain_window
        self._max_boots = limits.max_boots_per_rack
        self._boots: OrderedDict[bytes, _Boot] = OrderedDict()
        self.gaps = 0

    def examine(self, checkpoint: Checkpoint, own_hash: bytes) -> Place:
        """Say where ``checkpoint`` stands, changing nothing.

        Raises:
            VerificationError: it forks the chain, or its number or predecessor is impossible.
        """
        seq, rack = checkpoint.seq, checkpoint.rack
        if seq < 1 or (seq == 1) != (checkpoint.previous == FIRST_PREVIOUS):
            raise VerificationError(f"checkpoint {seq} of rack {rack!r} has an impossible predecessor")
        boot = self._boots.get(checkpoint.boot)
        if boot is None:
            return Place.NEW
        same = boot.links.get(seq)
        if same is not None:
            if same[0] != own_hash:
                raise VerificationError(f"rack {rack!r} signed two different checkpoints numbered {seq}")
            return Place.DUPLICATE
        before, after = boot.links.get(seq - 1), boot.links.get(seq + 1)
        if before is not None and before[0] != checkpoint.previous:
            raise VerificationError(f"checkpoint {seq} of rack {rack!r} does not follow checkpoint {seq - 1}")
        if after is not None and after[1] != own_hash:
            raise VerificationError(
                f"checkpoint {seq} of rack {rack!r} does not precede checkpoint {seq + 1}"
            )
        return Place.STALE if seq <= boot.last - self._window else Place.NEW

    def accept(self, checkpoint: Checkpoint, own_hash: bytes) -> None:
        """Take an examined NEW checkpoint into the chain."""
        boot = self._boots.get(checkpoint.boot)
        if boot is None:
            boot = self._boots[checkpoint.boot] = _Boot(checkpoint.seq)
        elif checkpoint.seq > boot.last:
            self.gaps += checkpoint.seq - boot.last - 1
            boot.last = checkpoint.seq
        elif checkpoint.seq > min(boot.links):
            self.gaps -= 1  # a late one fills a gap counted before
        boot.links[checkpoint.seq] = (own_hash, checkpoint.previous)
        self._boots.move_to_end(checkpoint.boot)
        while len(boot.links) > self._window:
            del boot.links[min(boot.links)]
        while len(self._boots) > self._max_boots:
            self._boots.popitem(last=False)
