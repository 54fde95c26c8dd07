"""Which capture serves which kind of source; the only place that knows them all."""

from __future__ import annotations

from stagebox_rack.audio.capture import Capture, CaptureClock, Notify
from stagebox_rack.audio.source_uri import DeviceSource, FileSource, SourceSpec, ToneSource


def make_capture(spec: SourceSpec, notify: Notify, clock: CaptureClock) -> Capture:
    """The capture for ``spec``, not yet opened. Only the kind that needs an audio library loads it."""
    match spec:
        case DeviceSource():
            from stagebox_rack.audio.device import DeviceCapture

            return DeviceCapture(spec, notify, clock)
        case FileSource():
            from stagebox_rack.audio.file_source import FileCapture

            return FileCapture(spec, notify, clock)
        case ToneSource():
            from stagebox_rack.audio.tone import ToneCapture

            return ToneCapture(spec, notify, clock)
