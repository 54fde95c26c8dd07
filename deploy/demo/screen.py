"""Where the demo speaks: a full-screen bridge on a terminal, plain lines anywhere else.

Rules: with ``--json`` nothing but the one object goes to standard output; colours follow NO_COLOR and the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from demo import bridge
from demo.bridge import View
from demo.limits import LIMITS
from stagebox.bridge.bars import glyphs_for

Draw = Callable[[View], None]


class Screen:
    """The demo's output. ``unattended`` keeps standard output free for the JSON object."""

    def __init__(self, *, unattended: bool) -> None:
        stream = sys.stderr if unattended else sys.stdout
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._full = self._console.is_terminal and not self._console.is_dumb_terminal and not unattended
        self.glyphs = glyphs_for(self._console.encoding)

    def say(self, text: str, style: str = "") -> None:
        """Write one line of progress or of the account."""
        self._console.print(text, style=style or None, markup=False, emoji=False)

    @contextmanager
    def bridge(self) -> Iterator[Draw]:
        """Show the bridge meanwhile; the terminal's former content is back afterwards."""
        if not self._full:
            yield self._plain_lines()
            return
        live = Live(console=self._console, screen=True, auto_refresh=False, transient=True)
        with live:
            # A wrapped line would push the rest off a full screen.
            self._console.soft_wrap = False
            try:
                yield lambda view: live.update(bridge.draw(view), refresh=True)
            finally:
                self._console.soft_wrap = True

    def _plain_lines(self) -> Draw:
        due = 0.0

        def write(view: View) -> None:
            nonlocal due
            if view.elapsed < due:
                return
            due = view.elapsed + LIMITS.plain_line_every
            for rack in view.racks:
                self.say(bridge.plain_line(rack))

        return write
