from __future__ import annotations

import ssl

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox.bus import BusOptions, nkey
from stagebox.bus.client import check_pattern
from stagebox.bus.stats import OTHER_KIND, DropCounter, kind_of
from stagebox.errors import ConfigError, InputError, KeyFileError
from stagebox.loopback import is_loopback

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.mark.parametrize(
    ("servers", "context", "message"),
    [
        ((), None, "at least one"),
        (("ws://mixer.example:4222",), CONTEXT, "plaintext"),
        (("nats://127.evil.example:4222",), CONTEXT, "plaintext"),
        (("nats://10.0.0.1:4222",), CONTEXT, "plaintext"),
        (("wss://mixer:4222",), None, "TLS context"),
        (("wss://user:secret@mixer:4222",), CONTEXT, "credentials"),
        (("https://mixer:4222",), CONTEXT, "not a bus address"),
        (("nats://127.0.0.1",), CONTEXT, "not a bus address"),
        (("wss://mixer:99999",), CONTEXT, "malformed"),
        (("wss://mixer:4222", "nats://127.0.0.1:1"), CONTEXT, "mixed"),
    ],
)
def test_an_address_that_is_unsafe_or_malformed_is_refused(
    servers: tuple[str, ...], context: ssl.SSLContext | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        BusOptions(servers, "test", context)
    assert "secret" not in str(caught.value)


def test_loopback_plaintext_and_remote_tls_are_accepted() -> None:
    BusOptions(("nats://127.0.0.1:4222", "nats://[::1]:4222", "nats://localhost:4222"), "test")
    BusOptions(("wss://mixer.example", "wss://mixer.example:8443"), "test", CONTEXT)


def test_a_user_jwt_without_its_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="JWT"):
        BusOptions(("nats://localhost:1",), "test", user_jwt=lambda: "jwt")


@pytest.mark.parametrize(
    "host", ["127.evil.example", "localhost.evil.example", "10.0.0.1", "::2", "", "0.0.0.0"]
)
def test_only_this_machine_is_loopback(host: str) -> None:
    assert not is_loopback(host)


@given(st.binary(min_size=32, max_size=32))
def test_an_identity_key_has_the_nkey_name_and_signature_that_nkeys_gives_it(seed: bytes) -> None:
    key = SigningKey(seed)
    encoded = nkeys.encode_seed(seed, nkeys.PREFIX_BYTE_USER)
    pair = nkeys.from_seed(bytearray(encoded))
    assert nkey.user_public(bytes(key.verify_key)) == pair.public_key.decode()
    assert bytes(nkey.signing_key(bytes(encoded))) == seed
    assert nkey.sign_nonce(key, "abc")


def test_a_broken_nats_seed_is_an_error_that_does_not_quote_it() -> None:
    with pytest.raises(KeyFileError) as caught:
        nkey.signing_key(b"SUASECRETSECRET")
    assert "SECRET" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "pattern", ["", "a..b", ".a", "a.", "a b", "a.>.b", "a.b>", "a.*b", "a\r\nPUB x 0", "a\0"]
)
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="not a subject pattern"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["a", "a.b", "*.a.>", ">", "*", "rack.*.meter.>", "$JS.API.>", "_INBOX_rack_a.>"]
)
def test_a_legal_pattern_is_accepted(pattern: str) -> None:
    check_pattern(pattern)


def test_drops_are_counted_by_kind_and_reason_in_bounded_memory() -> None:
    counter = DropCounter(max_kinds=3)
    assert (
        kind_of("rack.a.meter.main") == "meter"
        and kind_of("mixer.beacon") == "mixer"
        and kind_of("rack") == "rack"
    )
    assert counter.add("rack.a.meter.main", "disconnected")
    assert not counter.add("rack.b.meter.main", "disconnected")
    for index in range(100):
        counter.add(f"rack.a.kind{index}", "backlog")
    assert counter.by_kind["meter"] == 2
    assert len(counter.by_kind) <= 4 and counter.by_kind[OTHER_KIND] == 98
    assert counter.by_reason == {"disconnected": 2, "backlog": 100}


def test_the_tls_context_may_be_asked_for_anew_for_every_connection() -> None:
    options = BusOptions(("wss://mixer.example",), "test", lambda: CONTEXT)
    assert callable(options.ssl_context)
