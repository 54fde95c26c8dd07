"""What the ingest asks of a mixer around it, where only the records matter: one rack, and nothing to say."""

from __future__ import annotations


class OneRack:
    """A registry that knows every rack by the same key."""

    def __init__(self, public: bytes) -> None:
        self.keys = (public,)

    async def rack(self, _name: str) -> OneRack:
        return self


class StrictAudit:
    """Anything that would be audited is an error."""

    async def record(self, row: object) -> None:
        raise AssertionError(f"an alarm: {row}")

    def refused(self, row: object) -> None:
        raise AssertionError(f"a refusal: {row}")
