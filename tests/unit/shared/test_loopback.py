from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.loopback import is_loopback


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "0:0:0:0:0:0:0:1"]
)
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "127.evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost", "LOCALHOST ",
        "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1 ", "", "0.0.0.0", "::", "[::1]",
        "10.0.0.1", "192.168.0.1", "169.254.0.1", "fe80::1", "mixer", "localhost.", "127.0.0.256",
    ],
)  # fmt: skip
def test_no_other_name_or_spelling_is_loopback(host: str) -> None:
    assert not is_loopback(host)


@given(st.from_regex(r"[a-z0-9.-]{1,40}", fullmatch=True))
def test_only_an_address_or_the_one_name_is_ever_loopback(host: str) -> None:
    if is_loopback(host) and host != "localhost":
        assert ipaddress.ip_address(host).is_loopback
