"""Vendor roots as files: what a mixer's operator may write, and what is refused rather than guessed."""

from __future__ import annotations

import pytest
from nacl.signing import SigningKey

from stagebox.errors import InputError
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS
from stagebox.modules.statement import key_id
from stagebox.modules.vendor_root import VendorRoots, parse
from support.modules import DAY, NOW, VENDOR, make_root, make_vendor

ROOT = VENDOR.root
TEXT = ROOT.render()
OTHER = make_vendor(2, owner="other-works").root


def changed(key: str, value: str) -> str:
    """Return the file with the value of one key replaced."""
    lines = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in TEXT.splitlines()]
    assert lines != TEXT.splitlines()
    return "\n".join(lines)


def refusal(text: str) -> str:
    with pytest.raises(InputError) as refused:
        parse(text, "tone-works.toml")
    assert "tone-works.toml" in refused.value.message
    return refused.value.message


def test_a_root_reads_as_it_was_written() -> None:
    assert parse(TEXT, "tone-works.toml") == ROOT


def test_a_root_is_written_as_documented() -> None:
    assert (
        "version = 1\n"
        'owner = "tone-works"\n'
        f'public = "{ROOT.public.hex()}"\n'
        f'key_id = "{key_id(ROOT.public).hex()}"\n'
        "not_before = 2025-12-03T00:00:00Z\n"
        "not_after = 2027-01-02T00:00:00Z\n"
        'capabilities = ["audio", "clock", "emit", "log", "telemetry"]\n'
        'modules = ["*"]\n'
        "revoked = false\n"
        'reason = ""\n'
    ) == TEXT


def test_times_are_written_in_whole_seconds() -> None:
    root = make_root(VENDOR.key, not_before=NOW + 1, not_after=NOW + DAY - 1)
    found = parse(root.render(), "x")
    assert (found.not_before, found.not_after) == (NOW, NOW + DAY - 10**9)


def test_parts_of_a_second_are_read() -> None:
    assert parse(changed("not_before", "2026-01-02T00:00:00.000001Z"), "x").not_before == NOW + 1_000


def test_a_revoked_root_with_its_reason_reads_back() -> None:
    root = make_root(VENDOR.key, revoked=True, reason='the key was "lost", \\ Zürich')
    assert parse(root.render(), "x") == root


def test_a_root_without_capabilities_and_modules_reads_back() -> None:
    root = make_root(VENDOR.key, capabilities=(), modules=())
    assert parse(root.render(), "x") == root
    assert not root.allows_name("gain")


def test_capabilities_may_be_in_any_order() -> None:
    found = parse(changed("capabilities", '["log", "audio"]'), "x")
    assert found.capabilities == (Capability.AUDIO, Capability.LOG)


def test_revoked_and_reason_may_be_left_out() -> None:
    lines = [line for line in TEXT.splitlines() if not line.startswith(("revoked", "reason"))]
    assert parse("\n".join(lines), "x") == ROOT


@pytest.mark.parametrize(
    "key", ["version", "owner", "public", "key_id", "not_before", "not_after", "capabilities", "modules"]
)
def test_a_root_without_a_key_is_refused(key: str) -> None:
    lines = [line for line in TEXT.splitlines() if not line.startswith(f"{key} = ")]
    assert f"no '{key}'" in refusal("\n".join(lines))


def test_a_misspelt_key_is_refused() -> None:
    assert "unknown key 'revokd'" in refusal(TEXT.replace("revoked", "revokd"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "2"),
        ("version", "true"),
        ("version", '"1"'),
        ("owner", '"Tone Works"'),
        ("owner", '"../tone"'),
        ("owner", "1"),
        ("public", f'"{ROOT.public.hex().upper()}"'),
        ("public", f'"{ROOT.public.hex()[:-2]}"'),
        ("public", f'"{ROOT.public.hex()}00"'),
        ("public", "1"),
        ("key_id", f'"{OTHER.key_id.hex()}"'),
        ("key_id", f'"{ROOT.key_id.hex().upper()}"'),
        ("key_id", "0"),
        ("not_before", '"2026-01-02T00:00:00Z"'),
        ("not_before", "2026-01-02T00:00:00"),
        ("not_before", "2026-01-02"),
        ("not_before", "2026-01-02T01:00:00+01:00"),
        ("not_before", "1969-12-31T23:59:59Z"),
        ("not_before", "0"),
        ("not_after", "2025-12-03T00:00:00Z"),
        ("not_after", "2024-01-01T00:00:00Z"),
        ("capabilities", '["wasi"]'),
        ("capabilities", '["audio", "audio"]'),
        ("capabilities", '"audio"'),
        ("capabilities", "[1]"),
        ("modules", '"*"'),
        ("modules", '["gain", "gain"]'),
        ("modules", '["Gain"]'),
        ("modules", '["../*"]'),
        ("modules", '[""]'),
        ("modules", "[1]"),
        ("modules", f'["{"a" * 64}"]'),
        ("modules", "[" + ", ".join(f'"m{number}"' for number in range(LIMITS.max_patterns + 1)) + "]"),
        ("revoked", '"false"'),
        ("revoked", "0"),
        ("reason", '"a\\nb"'),
        ("reason", "false"),
    ],
)
def test_a_root_with_another_value_is_refused(key: str, value: str) -> None:
    assert refusal(changed(key, value))


@pytest.mark.parametrize("public", ["00" * 32, "01" + "00" * 31, "ff" * 32, "02" + "00" * 31])
def test_a_key_that_is_no_point_of_the_curve_is_refused(public: str) -> None:
    text = changed("public", f'"{public}"').replace(ROOT.key_id.hex(), key_id(bytes.fromhex(public)).hex())
    assert "not an Ed25519 key" in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "owner",
        "[",
        "a = " + "[" * 5000,
        "owner = 'a'\nowner = 'b'",
        "x" * (LIMITS.max_vendor_root_bytes + 1),
    ],
)
def test_what_is_no_toml_of_a_root_is_refused(text: str) -> None:
    assert refusal(text)


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("*", "gain", True),
        ("gain", "gain", True),
        ("gain", "gain-2", False),
        ("gain", "again", False),
        ("eq-*", "eq-4", True),
        ("eq-*", "eq", False),
        ("eq-?", "eq-10", False),
        ("eq-[0-4]", "eq-3", True),
        ("eq-[!0-4]", "eq-3", False),
    ],
)
def test_patterns_match_whole_names(pattern: str, name: str, allowed: bool) -> None:
    assert make_root(VENDOR.key, modules=(pattern,)).allows_name(name) is allowed


def test_any_of_the_patterns_allows() -> None:
    root = make_root(VENDOR.key, modules=("eq-*", "gain"))
    assert root.allows_name("gain")
    assert not root.allows_name("limiter")


def test_roots_are_found_by_their_key_id() -> None:
    roots = VendorRoots([ROOT, OTHER])
    assert roots.find(ROOT.key_id) is ROOT
    assert roots.find(OTHER.key_id) is OTHER
    assert roots.find(key_id(bytes(SigningKey(bytes(32)).verify_key))) is None


def test_two_roots_of_one_key_are_refused() -> None:
    revoked = make_root(VENDOR.key, owner="older-name", revoked=True)
    with pytest.raises(InputError, match="'tone-works' and 'older-name' have the same key"):
        VendorRoots([ROOT, revoked])
