from __future__ import annotations

import pytest

from stagebox.errors import InputError
from stagebox.modules.capabilities import Capability
from stagebox.modules.manifest import Build, Language, Manifest, parse
from stagebox.modules.params import Param

WHOLE = """
name = "acme-gain"
version = "1.2.0-rc.1"
abi = 1
capabilities = ["log", "audio"]

[build]
language = "c"
sources = ["src/gain.c", "tables.c"]
output = "build/gain.wasm"
memory_pages = 32
flags = ["-O3"]

[[params]]
name = "gain"
id = 0
min = -60
max = 24.0
default = 0
unit = "dB"
"""


def test_a_manifest_says_what_a_module_is_and_how_it_is_built() -> None:
    assert parse(WHOLE) == Manifest(
        name="acme-gain",
        version="1.2.0-rc.1",
        abi=1,
        capabilities=(Capability.AUDIO, Capability.LOG),
        build=Build(Language.C, ("src/gain.c", "tables.c"), "build/gain.wasm", 32, ("-O3",)),
        params=(Param("gain", 0, -60.0, 24.0, 0.0, "dB"),),
    )


def test_what_is_not_said_has_a_plain_default() -> None:
    found = parse(
        'name = "x"\nversion = "1.0.0"\ncapabilities = ["audio"]\n'
        '[build]\nlanguage = "wat"\nsources = ["x.wat"]\n'
    )
    assert (found.abi, found.params) == (1, ())
    assert found.build == Build(Language.WAT, ("x.wat",), "x.wasm", 16)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "acme-gain"', "", "has no name"),
        ('name = "acme-gain"', 'name = "Acme"', "not a legal module name"),
        ('name = "acme-gain"', "name = 1", "name is not a text"),
        ('version = "1.2.0-rc.1"', 'version = "1.2"', "not a semantic version"),
        ("abi = 1", "abi = 2", "is for ABI 2"),
        ("abi = 1", "abi = true", "abi is not a whole number"),
        ("abi = 1", "api = 1", "unknown key 'api'"),
        ('["log", "audio"]', '["log", "network"]', "'network' is not a valid Capability"),
        ('["log", "audio"]', '"audio"', "capabilities is not a list of texts"),
        ('language = "c"', 'language = "rust"', "has the language 'rust'"),
        ('language = "c"', 'language = "wat"', "built from one source"),
        ('["src/gain.c", "tables.c"]', "[]", "names no sources"),
        ("src/gain.c", "../gain.c", r"names the file '\.\./gain\.c'"),
        ("src/gain.c", "-fplugin=x", "names the file '-fplugin=x'"),
        ("build/gain.wasm", "/etc/gain.wasm", "names the file '/etc/gain.wasm'"),
        ("memory_pages = 32", "memory_pages = 0", "memory_pages 0 is not within 1 and 1024"),
        ("memory_pages = 32", "memory_pages = 1025", "memory_pages 1025"),
        ('flags = ["-O3"]', "flags = [3]", "flags is not a list of texts"),
        ("min = -60", 'min = "low"', "min is not a number"),
        ("min = -60", "min = 6", "default outside of its range"),
        ("id = 0", "ID = 0", "unknown key 'ID'"),
        ("[[params]]", "[params]", "params is not a list"),
        (
            "[[params]]",
            '[[params]]\nname = "x"\nid = 0\nmin = 0\nmax = 1\ndefault = 0\n[[params]]',
            "same id",
        ),
        ("[build]", "[build", "is not TOML"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(old: str, new: str, complaint: str) -> None:
    assert old in WHOLE
    with pytest.raises(InputError, match=complaint) as refused:
        parse(WHOLE.replace(old, new, 1), "gain/module.toml")
    assert refused.value.message.startswith("gain/module.toml")
