"""What JetStream calls raise while nats-server is away, turned into one error.

nats-py cancels the futures of a connection that closes, so its callers get ``CancelledError`` although nobody
cancelled them. Taken for a cancellation it would end their tasks without a word; here it is an outage.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from nats.errors import Error as NatsError

from stagebox.errors import BusError


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Run JetStream calls; ``what`` is what cannot be used if they fail, for instance ``the audit``.

    Raises:
        BusError: the connection is down, closed meanwhile, or the server refused or did not answer.
        asyncio.CancelledError: this task itself is being cancelled.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _unusable(what, "the connection was lost") from None
    except (NatsError, TimeoutError) as error:
        raise _unusable(what, str(error) or type(error).__name__) from error


def _unusable(what: str, reason: str) -> BusError:
    return BusError(
        f"{what} cannot be used: {' '.join(reason.split())}",
        remedy="nats-server may be restarting or its disk full; try again in a moment",
    )
