"""The rack's write-ahead log: journalled before it is promised, encrypted, chained, shipped exactly once.

``wal.py`` is the one face for the application. Formats: docs/reference/wal.md.
"""
