"""Listening to a monitor bus: a lease that keeps it coming, a jitter buffer, a decoder, concealment of losses.

::

    async with bus.listen("stage-left", bus="main") as listener:
        async for block in listener:
            block.samples  # float32[frames, channels] at 48 kHz

Needs the extra ``stagebox[listen]``.
"""
