"""The bus client: one wrapper of nats-py for racks, mixers and subscribers.

Importing this package loads aiohttp and nats-py, so command modules import it where they use it.
"""

from stagebox.bus.causes import Cause, Failure
from stagebox.bus.client import BusClient
from stagebox.bus.limits import BUS_LIMITS, BusLimits
from stagebox.bus.message import BusMessage
from stagebox.bus.options import BusOptions
from stagebox.bus.stats import BusStats
from stagebox.bus.subscription import Subscription

__all__ = [
    "BUS_LIMITS",
    "BusClient",
    "BusLimits",
    "BusMessage",
    "BusOptions",
    "BusStats",
    "Cause",
    "Failure",
    "Subscription",
]
