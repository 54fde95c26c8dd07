"""Third parties' Wasm on this rack: what it may run (guard, service), and where it is run and heard (hosting).

A module runs only if the pinned cluster signed both the sheet that asks for it and the file itself. Nothing here is
on the audio path but ``tap.py`` and ``hosting/``. Files: docs/reference/module-state.md.
"""
