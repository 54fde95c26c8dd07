"""How far a command is, as a bar on a terminal's standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, *, quiet: bool, then: str = "") -> Iterator[Callable[[int, int], None]]:
    """Give a function that is told how much is done, and of how much; ``then`` is what goes on when all is.

    A program that reads our output, which is ``quiet``, and a standard error that is no terminal get no bar.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            words = then if then and done >= total else what
            # No total yet is a bar without an end.
            bar.update(task, completed=done, total=total or None, description=words)

        yield show
