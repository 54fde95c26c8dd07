"""The registry: the one source of truth about racks and enrollment tokens."""
