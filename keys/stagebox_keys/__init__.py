"""The authorities of a Stagebox cluster: making, loading and describing their keys.

Runs air-gapped: nothing in this package opens a socket.
"""
