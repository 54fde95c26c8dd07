"""Signed control messages between a rack and its mixer: requests, answers, commands, acks, trust.

Nothing here is believed for the subject it came on: every message is an envelope under its own domain and names
the cluster and the rack it is for. Byte layouts and vectors: docs/reference/control.md.
"""
