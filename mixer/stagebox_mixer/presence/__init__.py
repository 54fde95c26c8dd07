"""Which racks are there: their latest heartbeat, and how long ago it came."""
