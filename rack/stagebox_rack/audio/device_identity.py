"""A name for a capture device that stays when cards are renumbered.

PortAudio calls an ALSA device by its card's index of the moment, ``USB Audio (hw:1,0)``. The index moves with the order
in which interfaces are found; the card's USB identity, or else its ALSA id, does not. Forms::

    usb:<vendor>:<product>:<serial>/<device>      a USB interface that has a serial number
    usb:<vendor>:<product>@<port>/<device>        one that has none: by the port it is plugged into
    alsa:<card id>/<device>                       any other card of ALSA
    <host API>:<name>                             everything else, such as a sound server
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_HARDWARE: Final = re.compile(r"(?P<label>.*?) ?\(hw:(?P<card>\d+),(?P<device>\d+)\)")
_ALSA: Final = "ALSA"


def without_index(name: str) -> str:
    """The device's name less the index PortAudio adds to ALSA hardware."""
    found = _HARDWARE.fullmatch(name)
    return found["label"] if found else name


def device_identity(name: str, host_api: str, *, root: Path = Path("/")) -> str:
    """The stable identity of the device that PortAudio calls ``name`` now; ``root`` holds ``proc`` and ``sys``."""
    found = _HARDWARE.fullmatch(name)
    if host_api != _ALSA or found is None:
        return f"{host_api}:{name}"
    card, device = found["card"], found["device"]
    usb = _usb(root / "sys/class/sound" / f"card{card}" / "device")
    if usb:
        return f"usb:{usb}/{device}"
    card_id = _text(root / "proc/asound" / f"card{card}" / "id")
    return f"alsa:{card_id}/{device}" if card_id else f"{host_api}:{name}"


def _usb(link: Path) -> str:
    """``vendor:product:serial`` or ``vendor:product@port`` of the USB device an ALSA card is an interface of."""
    try:
        interface = link.resolve(strict=True)
    except OSError:
        return ""
    device = interface.parent
    vendor, product = _text(device / "idVendor"), _text(device / "idProduct")
    if not (vendor and product):
        return ""
    serial = _text(device / "serial")
    return f"{vendor}:{product}:{serial}" if serial else f"{vendor}:{product}@{device.name}"


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
