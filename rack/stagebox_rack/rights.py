"""What a rack may send: everything if its newest passport is active and its connection was admitted with one that is.

A pending or suspended rack publishes little and ships nothing; its journal takes everything, for when it may.
"""

from __future__ import annotations

from typing import Protocol

from stagebox.passport import PassportStatus


class Bus(Protocol):
    """What is needed of the bus client."""

    @property
    def connected(self) -> bool:
        """Whether it is up."""
        ...


class Publishing(Protocol):
    """What is needed of the publisher."""

    limited: bool

    def catch_up(self) -> None:
        """Send what could not be sent."""
        ...


class Shipping(Protocol):
    """What is needed of the shipper."""

    def connected(self) -> None:
        """Ship from now on; asked again, over a new connection."""
        ...

    def disconnected(self) -> None:
        """Ship nothing."""
        ...


class Rights:
    """The rights of one running rack, on the event loop."""

    def __init__(self, bus: Bus, publisher: Publishing, shipper: Shipping) -> None:
        self._bus = bus
        self._publisher = publisher
        self._shipper = shipper
        self._shipping = False

    def use(self, newest: PassportStatus, shown: PassportStatus, *, fresh: bool = False) -> None:
        """Send what is allowed by the newest passport held and by the one that the connection was admitted with.

        ``fresh`` says that the connection is a new one.
        """
        full = newest is PassportStatus.ACTIVE and shown is PassportStatus.ACTIVE
        self._publisher.limited = not full
        if self._bus.connected:
            self._publisher.catch_up()
        before, self._shipping = self._shipping, full and self._bus.connected
        if self._shipping and (fresh or not before):
            self._shipper.connected()
        elif before and not self._shipping:
            self._shipper.disconnected()
