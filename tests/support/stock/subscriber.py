"""A telemetry subscriber with nothing of Stagebox in it: nats-py with TLS options, and CBOR.

usage: subscriber.py <wss url> <identity directory> <subject pattern>

Prints ``subscribed``, then one JSON line for the first record, and ends.
"""

import array
import asyncio
import json
import ssl
import sys

import cbor2
import nats


def decibels(tag: cbor2.CBORTag) -> list[float]:
    """Return a typed array of hundredths in int16, little-endian (RFC 8746, tag 77)."""
    assert tag.tag == 77, tag
    values = array.array("h", tag.value)
    if sys.byteorder == "big":
        values.byteswap()
    return [value / 100 for value in values]


async def main(url: str, identity: str, pattern: str) -> None:
    """Connect, subscribe, print one record."""
    context = ssl.create_default_context(cafile=f"{identity}/ca.pem")
    context.load_cert_chain(f"{identity}/client.crt", f"{identity}/client.key")
    bus = await nats.connect(url, tls=context, connect_timeout=8, allow_reconnect=False)
    subscription = await bus.subscribe(pattern)
    await bus.flush()
    print("subscribed", flush=True)
    message = await subscription.next_msg(timeout=15)
    record = cbor2.loads(message.data)
    shown = {
        "subject": message.subject,
        "seq": record["seq"],
        "frames": record["n"],
        "rate": record["rate"],
        "peak": decibels(record["peak"]),
        "boot": record["boot"].hex(),
    }
    print(json.dumps(shown), flush=True)
    await bus.close()


asyncio.run(main(*sys.argv[1:4]))
