"""The subscriber SDK: read what racks publish, and know that it is theirs.

::

    async with stagebox.connect("wss://mixer:4222", identity="ops") as bus:
        async for record in bus.records("rack.*.meter.>", verify=True):
            print(record.rack, record.value.peak, record.verification)
"""

from stagebox.subscriber.counters import Counters
from stagebox.subscriber.limits import SUBSCRIBER_LIMITS, SubscriberLimits
from stagebox.subscriber.record import Record, Verification
from stagebox.subscriber.session import Subscriber, connect
from stagebox.subscriber.stream import RecordStream

__all__ = [
    "SUBSCRIBER_LIMITS",
    "Counters",
    "Record",
    "RecordStream",
    "Subscriber",
    "SubscriberLimits",
    "Verification",
    "connect",
]
