from __future__ import annotations

import json
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from stagebox.cli import host
from stagebox.cli.wasm import toolchains
from stagebox.cli.wasm.scaffold import Starter, starter_files
from stagebox.keyfiles import encode_public
from stagebox.modules import manifest
from stagebox.modules.manifest import Language
from support.modules import CLUSTER, CLUSTER_PUBLIC, DAY, SECOND, VENDOR, countersigned_module, signed_module

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def wasm(*args: str) -> int:
    return host.run(["wasm", *args])


def signed_now(**changes: object) -> bytes:
    """A signed module that is valid today."""
    now = time.time_ns() // SECOND * SECOND
    return signed_module(issued=now - DAY, expires=now + DAY, **changes)  # type: ignore[arg-type]


def countersigned_now() -> bytes:
    now = time.time_ns() // SECOND * SECOND
    return countersigned_module(signed_now(), issued=now, expires=now + DAY // 2)


@pytest.fixture
def trusted() -> tuple[str, str]:
    """The vendor root and the cluster key that the files of these tests are signed with."""
    now = time.time_ns() // SECOND * SECOND
    [root] = VENDOR.but(not_before=now - DAY, not_after=now + DAY)._roots.values()
    Path("vendor.toml").write_text(root.render())
    Path("cluster.pub").write_bytes(encode_public(CLUSTER_PUBLIC))
    return "vendor.toml", "cluster.pub"


# --- new -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", list(Language))
@pytest.mark.parametrize("starter", list(Starter))
def test_a_starter_has_a_manifest_a_source_of_its_name_and_the_abi(
    language: Language, starter: Starter
) -> None:
    found = starter_files("acme-one", language, starter)
    described = manifest.parse(found["module.toml"])
    assert (described.name, described.build.language) == ("acme-one", language)
    assert starter.value in described.capabilities
    assert set(described.build.sources) < set(found)
    definitions = {
        Language.C: ["stagebox.h", "stagebox_math.h"],
        Language.ASSEMBLYSCRIPT: ["lib/stagebox.ts"],
        Language.WAT: [],
    }
    for path in definitions[language]:
        assert found[path] == (Path(manifest.__file__).parent / "sdk" / Path(path).name).read_text()
    assert not any("@NAME@" in text for text in found.values())


def test_new_asks_for_the_compiler_that_the_tests_build_with() -> None:
    package = json.loads(starter_files("x", Language.ASSEMBLYSCRIPT, Starter.AUDIO)["package.json"])
    support = Path(__file__).parents[3] / "support" / "assemblyscript" / "package.json"
    assert package["devDependencies"] == {"assemblyscript": toolchains.ASSEMBLYSCRIPT}
    assert json.loads(support.read_text())["devDependencies"] == package["devDependencies"]


def test_new_overwrites_nothing(capsys: Capture) -> None:
    assert wasm("new", "acme-gain", "--lang", "wat") == 0
    assert "stagebox wasm build" in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in Path("acme-gain").iterdir()}
    assert wasm("new", "acme-gain", "--lang", "wat") == 65
    assert "acme-gain is not empty" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path("acme-gain").iterdir()} == before


def test_the_command_that_new_suggests_can_be_pasted(capsys: Capture) -> None:
    assert wasm("new", "acme-gain", "--lang", "wat", "--dir", "my modules/gain") == 0
    assert "cd 'my modules/gain' && stagebox wasm build" in capsys.readouterr().out


def test_new_refuses_a_name_that_no_record_could_have(capsys: Capture) -> None:
    assert wasm("new", "Acme.Gain", "--lang", "wat") == 65
    assert "not a legal module name" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("flags", [["--lang", "cobol"], ["--lang", "wat", "--kind", "video"], []])
def test_new_with_wrong_flags_is_wrong_use(flags: list[str], capsys: Capture) -> None:
    assert wasm("new", "acme-gain", *flags) == 2
    assert "--lang" in capsys.readouterr().err or "--kind" in flags


# --- build ---------------------------------------------------------------------------------------------------------


def test_a_build_says_size_imports_exports_memory_and_parameters(capsys: Capture) -> None:
    assert wasm("new", "acme-gain", "--lang", "wat", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["README.md", "acme-gain.wat", "module.toml"]
    assert wasm("build", "acme-gain", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == Path("acme-gain/acme-gain.wasm").stat().st_size
    assert facts["imports"] == ["stagebox.log"]
    assert {"init", "process", "param", "memory"} <= set(facts["exports"])
    assert facts["memory"] == {"min_pages": 16, "max_pages": 16}
    assert [param["name"] for param in facts["params"]] == ["gain"]
    assert wasm("build", "acme-gain") == 0
    assert "16 to 16 pages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("16 16)", "16)", "memory_unbounded"),
        ("16 16)", "16 60000)", "memory_too_large"),
        ('"stagebox" "log"', '"env" "abort"', "unknown_import"),
        ('(export "param")', "", "export_missing"),
        ('(export "process")', "", "export_missing"),
    ],
)
def test_a_build_that_no_mixer_would_import_fails_with_its_code(
    old: str, new: str, code: str, capsys: Capture
) -> None:
    assert wasm("new", "acme-gain", "--lang", "wat") == 0
    source = Path("acme-gain/acme-gain.wat")
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    assert wasm("build", "acme-gain") == 77
    assert f"(code {code})" in capsys.readouterr().err
    assert not Path("acme-gain/acme-gain.wasm").exists()


def test_an_import_that_the_manifest_does_not_ask_for_is_named(capsys: Capture) -> None:
    assert wasm("new", "acme-gain", "--lang", "wat") == 0
    manifest_file = Path("acme-gain/module.toml")
    manifest_file.write_text(manifest_file.read_text().replace('["audio", "log"]', '["audio"]'))
    assert wasm("build", "acme-gain") == 77
    assert "import_not_granted" in capsys.readouterr().err


def test_text_that_is_no_wat_is_shown_where_it_is_wrong(capsys: Capture) -> None:
    assert wasm("new", "acme-gain", "--lang", "wat") == 0
    Path("acme-gain/acme-gain.wat").write_text("(module (fun))")
    assert wasm("build", "acme-gain") == 65
    err = capsys.readouterr().err
    assert "expected valid module field" in err
    assert "is not WebAssembly text" in err


def test_a_build_without_manifest_or_source_says_which_is_missing(capsys: Capture) -> None:
    assert wasm("build") == 65
    assert "there is no module.toml" in capsys.readouterr().err
    assert wasm("new", "acme-gain", "--lang", "wat") == 0
    Path("acme-gain/acme-gain.wat").unlink()
    capsys.readouterr()
    assert wasm("build", "acme-gain") == 65
    assert "there is no source acme-gain/acme-gain.wat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("language", "remedy"),
    [("c", "pip install ziglang"), ("assemblyscript", "npm install"), ("wat", "pip install wasmtime")],
)
def test_a_compiler_that_is_not_installed_is_named_with_what_to_do(
    language: str, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def absent(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(toolchains, "find_spec", absent)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    assert wasm("new", "acme-gain", "--lang", language) == 0
    capsys.readouterr()
    assert wasm("build", "acme-gain") == 64
    err = capsys.readouterr().err
    assert "is not installed" in err
    assert remedy in err


# --- verify --------------------------------------------------------------------------------------------------------


def test_a_signed_module_verifies_and_every_fact_is_shown(trusted: tuple[str, str], capsys: Capture) -> None:
    Path("gain.wasm").write_bytes(signed_now())
    assert wasm("verify", "gain.wasm", "--vendor", trusted[0], "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verified"] is True
    assert (facts["vendor"]["owner"], facts["vendor"]["name"]) == ("tone-works", "gain")
    assert facts["vendor"]["capabilities"] == ["audio"]
    assert facts["interface"]["params"][0]["name"] == "gain"
    assert wasm("verify", "gain.wasm", "--vendor", trusted[0]) == 0
    out = capsys.readouterr().out
    for fact in ("tone-works", "1.0.0", "expires", "sha256", "blake3", VENDOR.root.key_id.hex()):
        assert fact in out


def test_a_countersigned_module_verifies_as_a_rack_does_it(trusted: tuple[str, str], capsys: Capture) -> None:
    Path("gain.wasm").write_bytes(countersigned_now())
    rack = ("verify", "gain.wasm", "--cluster-key", trusted[1], "--cluster")
    assert wasm(*rack, CLUSTER, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["cluster"]["cluster"], facts["cluster"]["granted"]) == (CLUSTER, ["audio"])
    assert facts["cluster"]["limits"]["FuelPerBlock"] > 0
    assert wasm(*rack, CLUSTER) == 0
    assert "vouched for by the cluster" in capsys.readouterr().out
    assert wasm(*rack, "other") == 77
    assert "(code wrong_cluster)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda data: data[:-1], "overrun"),
        (lambda data: bytes((*data[:-1], data[-1] ^ 1)), "bad_signature"),
        (lambda data: data[: data.rindex(b"\0", 0, data.index(b"fluxrig.signature"))], "missing_signature"),
        (lambda data: b"MZ" + data, "bad_preamble"),
        (lambda data: countersigned_module(data), "already_countersigned"),
    ],
)
def test_what_does_not_verify_is_one_error_with_its_code(
    make: object, code: str, trusted: tuple[str, str], capsys: Capture
) -> None:
    assert callable(make)
    Path("gain.wasm").write_bytes(make(signed_module()))
    assert wasm("verify", "gain.wasm", "--vendor", trusted[0]) == 77
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: gain.wasm: ")
    assert f"(code {code})" in err.splitlines()[0]


def test_a_refusal_as_json_has_the_code_and_the_same_exit_code(
    trusted: tuple[str, str], capsys: Capture
) -> None:
    Path("gain.wasm").write_bytes(signed_module())
    assert wasm("verify", "gain.wasm", "--vendor", trusted[0], "--json") == 77
    refused = json.loads(capsys.readouterr().out)
    assert (refused["verified"], refused["code"]) == (False, "expired")


def test_a_module_that_imports_what_it_was_not_granted_does_not_verify(
    trusted: tuple[str, str], capsys: Capture
) -> None:
    from support.modules import assemble, gain_wat

    sneaky = gain_wat(imports='(import "stagebox" "now" (func (result i64)))')
    Path("gain.wasm").write_bytes(signed_now(wasm=assemble(sneaky)))
    assert wasm("verify", "gain.wasm", "--vendor", trusted[0]) == 77
    assert "(code import_not_granted)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--cluster", "venue"],
        ["--cluster-key", "cluster.pub"],
        ["--vendor", "vendor.toml", "--cluster-key", "cluster.pub", "--cluster", "venue"],
    ],
)
def test_verify_demands_to_know_whom_to_trust(
    flags: list[str], trusted: tuple[str, str], capsys: Capture
) -> None:
    Path("gain.wasm").write_bytes(signed_now())
    assert wasm("verify", "gain.wasm", *flags) == 64
    err = capsys.readouterr().err
    assert err.count("error:") == 1
    assert "--vendor vendor.toml, or --cluster-key" in err


# --- inspect -------------------------------------------------------------------------------------------------------


def test_inspect_shows_everything_and_calls_nothing_verified(capsys: Capture) -> None:
    Path("gain.wasm").write_bytes(countersigned_module())
    assert wasm("inspect", "gain.wasm") == 0
    out = capsys.readouterr().out
    assert out.count("(UNVERIFIED)") == 2
    assert "fluxrig.cluster.signature" in out
    assert wasm("inspect", "gain.wasm", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verified"] is False
    assert [section["name"] for section in facts["sections"][-3:]] == [
        "stagebox.params",
        "fluxrig.signature",
        "fluxrig.cluster.signature",
    ]
    assert facts["cluster"]["cluster"] == CLUSTER


def test_inspect_escapes_what_a_file_would_do_to_a_terminal(capsys: Capture) -> None:
    from stagebox.modules.walker import custom_section
    from support.modules import unsigned_module

    Path("gain.wasm").write_bytes(unsigned_module() + custom_section("\x1b[2Jred", b""))
    assert wasm("inspect", "gain.wasm") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "vendor's signature: none" in out


@pytest.mark.parametrize("path", ["absent.wasm", "."])
def test_a_file_that_cannot_be_read_is_named(path: str, capsys: Capture) -> None:
    assert wasm("inspect", path) == 65
    assert f"cannot read the module {path}" in capsys.readouterr().err


# --- help ----------------------------------------------------------------------------------------------------------


def test_the_group_lists_commands_of_every_distribution_with_examples(capsys: Capture) -> None:
    assert wasm("--help") == 0
    out = capsys.readouterr().out
    for command in ("new", "build", "sign", "verify", "inspect", "test"):
        assert f" {command} " in out
        assert wasm(command, "--help") == 0
        shown = capsys.readouterr().out
        assert "Example" in shown
        assert f"stagebox wasm {command}" in shown


def test_completion_knows_the_commands_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    probe = (
        "import os, sys; os.environ.update(_STAGEBOX_COMPLETE='complete_bash', COMP_WORDS='stagebox wasm ',"
        " COMP_CWORD='2'); from stagebox.cli.host import run; run([]);"
        "print([m for m in sys.modules if m.startswith(('wasmtime', 'stagebox_', 'nacl', 'httpx'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=30, check=True
    )
    *commands, imported = done.stdout.splitlines()
    assert {"build", "inspect", "new", "sign", "test", "verify"} <= set(commands)
    assert imported == "[]"
