"""The embedded nats-server: its configuration, its process and the mixer's own credentials on it."""
