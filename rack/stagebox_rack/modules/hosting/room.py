"""How much memory instances may take in their host. Pure.

A host may write to `module_host_data_bytes` and no more, so what one guest takes another cannot have. An instance is
therefore counted with all that its memory may grow to, from before it begins until it is let go, and is not begun
where that does not fit. What is left beside :class:`Room` is the interpreter's, the lanes' and that of code being
loaded.
"""

from __future__ import annotations

from stagebox.modules.statement import ModuleLimits
from stagebox_rack.limits import LIMITS

NO_ROOM = "no_room"
"""The code of what waits for memory. It is the rack's matter, and says nothing against a module."""


def bytes_for(limits: ModuleLimits) -> int:
    """Return the bytes that an instance with ``limits`` may take: its memory, and what the engine keeps for it."""
    return limits.memory_bytes + LIMITS.module_instance_bytes


class Room:
    """What a host has for everything that lives in it, also for what still fades out."""

    def __init__(self) -> None:
        self._left = LIMITS.module_host_room_bytes + LIMITS.module_host_swap_bytes

    def take(self, wanted: int) -> bool:
        """Keep so many bytes from others; False if they are not there."""
        if wanted > self._left:
            return False
        self._left -= wanted
        return True

    def give_back(self, taken: int) -> None:
        """Let others have them."""
        self._left += taken
