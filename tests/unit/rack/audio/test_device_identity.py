"""A device keeps its identity when cards are renumbered, and does not share it with another of the same make."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagebox_rack.audio.device_identity import device_identity, without_index


def usb_card(root: Path, index: int, port: str, serial: str = "", card_id: str = "Scarlett") -> None:
    """What Linux shows of a USB interface that is card ``index``."""
    device = root / "sys/devices/pci/usb1" / port
    interface = device / f"{port}:1.0"
    interface.mkdir(parents=True)
    for name, text in (("idVendor", "1235"), ("idProduct", "8211"), ("serial", serial)):
        if text:
            (device / name).write_text(text + "\n")
    card = root / "sys/class/sound" / f"card{index}"
    card.mkdir(parents=True)
    (card / "device").symlink_to(interface)
    proc = root / "proc/asound" / f"card{index}"
    proc.mkdir(parents=True)
    (proc / "id").write_text(card_id + "\n")


def identity(root: Path, name: str) -> str:
    return device_identity(name, "ALSA", root=root)


def test_a_usb_interface_is_its_serial_number_whatever_card_it_is(tmp_path: Path) -> None:
    usb_card(tmp_path / "a", 1, "1-1", "Y8RT0")
    usb_card(tmp_path / "b", 4, "1-3", "Y8RT0")
    one = identity(tmp_path / "a", "Scarlett 18i8: USB Audio (hw:1,0)")
    assert one == identity(tmp_path / "b", "Scarlett 18i8: USB Audio (hw:4,0)") == "usb:1235:8211:Y8RT0/0"
    assert identity(tmp_path / "a", "Scarlett 18i8: USB Audio (hw:1,1)") == "usb:1235:8211:Y8RT0/1"


def test_two_of_the_same_make_are_told_apart_by_serial_or_by_port(tmp_path: Path) -> None:
    usb_card(tmp_path, 1, "1-1", "AAA")
    usb_card(tmp_path, 2, "1-2", "BBB")
    usb_card(tmp_path, 3, "1-3.1")
    usb_card(tmp_path, 4, "1-3.2")
    found = [identity(tmp_path, f"Scarlett: USB Audio (hw:{n},0)") for n in range(1, 5)]
    assert found == [
        "usb:1235:8211:AAA/0", "usb:1235:8211:BBB/0", "usb:1235:8211@1-3.1/0", "usb:1235:8211@1-3.2/0",
    ]  # fmt: skip


def test_a_card_that_is_not_usb_is_its_alsa_id(tmp_path: Path) -> None:
    proc = tmp_path / "proc/asound/card0"
    proc.mkdir(parents=True)
    (proc / "id").write_text("PCH\n")
    assert identity(tmp_path, "HDA Intel PCH: ALC (hw:0,0)") == "alsa:PCH/0"


@pytest.mark.parametrize(
    ("name", "api"),
    [("pulse", "ALSA"), ("default", "ALSA"), ("Built-in (hw:0,0)", "Core Audio"), ("x (hw:9,0)", "ALSA")],
)
def test_everything_else_is_its_host_api_and_name(tmp_path: Path, name: str, api: str) -> None:
    assert device_identity(name, api, root=tmp_path) == f"{api}:{name}"


def test_a_name_can_be_given_without_the_index() -> None:
    assert without_index("Scarlett: USB Audio (hw:1,0)") == "Scarlett: USB Audio"
    assert without_index("pulse") == "pulse"
