"""What happens on a rack, given to its publisher; what is measured before there is one is kept for it."""

from __future__ import annotations

from typing import Any

from stagebox_rack.audio.measurement import AudioItem
from stagebox_rack.publisher import Publisher
from stagebox_rack.wal.events import JournalEvent


class Early:
    """Stands before the publisher. Runs on the event loop."""

    def __init__(self) -> None:
        self._publisher: Publisher | None = None
        self._journal_events: list[JournalEvent] = []
        self._items: list[AudioItem] = []

    def attach(self, publisher: Publisher) -> None:
        """Here is the publisher; from now on it hears everything."""
        self._publisher = publisher

    def hand_over(self) -> None:
        """Publish what was kept."""
        events, self._journal_events = self._journal_events, []
        for event in events:
            self.journal_event(event)
        items, self._items = self._items, []
        for item in items:
            self.take(item)

    def event(self, name: str, detail: dict[str, Any]) -> None:
        """Publish something that happened; before there is a publisher nobody could hear it."""
        if self._publisher is not None:
            self._publisher.event(name, detail)

    def alert(self, name: str, detail: dict[str, Any]) -> None:
        """Publish something that needs attention; as :meth:`event`."""
        if self._publisher is not None:
            self._publisher.alert(name, detail)

    def take(self, item: AudioItem) -> None:
        """Publish or keep what the audio engine made."""
        if self._publisher is None:
            self._items.append(item)
        else:
            self._publisher.take(item)

    def journal_event(self, event: JournalEvent) -> None:
        """Publish or keep what the journal says of itself."""
        if self._publisher is None:
            self._journal_events.append(event)
        elif event.severity == "alert":
            # An alert about the journal must not wait for the journal.
            self._publisher.alert(event.name, dict(event.detail), journalled=False)
        else:
            self._publisher.event(event.name, dict(event.detail))
