"""Where modules run: child processes that are fed through shared memory, one a core, and supervised.

The rack's side is `hosts.py` (what is public), `chain.py` (the only part on the audio path) and `feed.py`; the other
side is `child.py`, and `guest.py` is where a stranger's code is run. See docs/adr/0024-modules-in-host-processes.md.
"""
