"""Tells how many racks can capture the default device at the same time: opens it and waits for real blocks.

Runs as a process of its own (``python -m demo.device_probe COUNT``), because PortAudio loads sound libraries that
print, and a broken sound server may hang. Answers with one JSON line ``{"delivering": n, "device": name,
"reason": why not more}``.
"""

from __future__ import annotations

import json
import sys
import time

from demo.limits import LIMITS


def probe(count: int) -> dict[str, object]:
    """Open the default capture device ``count`` times at once and see which deliver audio."""
    from stagebox.errors import StageboxError
    from stagebox_rack.audio.capture import Capture, CaptureClock
    from stagebox_rack.audio.portaudio import find_device, list_devices
    from stagebox_rack.audio.ring import Ring
    from stagebox_rack.audio.source_uri import DeviceSource
    from stagebox_rack.audio.sources import make_capture
    from stagebox_rack.limits import LIMITS as RACK_LIMITS

    spec = DeviceSource("main", "default")
    opened: list[Capture] = []
    delivering, name, reason = 0, "", ""
    try:
        devices = list_devices()
        if not devices:
            return {"delivering": 0, "device": "", "reason": "there is no capture device"}
        name = find_device(spec, devices).name
        for _ in range(count):
            capture = make_capture(spec, lambda _event: None, CaptureClock())
            opened.append(capture)
            form = capture.open()
            least = RACK_LIMITS.audio_ring_min_block_frames
            ring = Ring(form.rate, form.channels, min_block=least, dtype=form.dtype)
            cursor = ring.open_cursor()
            capture.start(ring)
            deadline = time.monotonic() + LIMITS.device_first_block
            while cursor.read(RACK_LIMITS.audio_read_timeout) is None:
                if time.monotonic() > deadline:
                    raise TimeoutError
            delivering += 1
    except TimeoutError:
        reason = f"{name!r} delivers no audio"
    except StageboxError as error:
        reason = error.message
    finally:
        for capture in opened:
            capture.stop()
    return {"delivering": delivering, "device": name, "reason": reason}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(int(sys.argv[1]))) + "\n")
