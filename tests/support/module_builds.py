"""Modules built from their sources with the toolchains an author would use: ``zig cc`` of PyPI and ``asc`` of npm."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from stagebox.cli.wasm.build import built
from stagebox.modules.interface import Interface
from stagebox.modules.manifest import FILE_NAME, Language, Manifest, parse

EXAMPLES = Path(__file__).parents[2] / "deploy" / "modules"
SUPPORT = Path(__file__).parent
INSTALL_S = 180.0
_UNREACHABLE = (b"ENOTFOUND", b"ECONNREFUSED", b"ETIMEDOUT", b"EAI_AGAIN")


@dataclass(frozen=True)
class Built:
    """A module as ``stagebox wasm build`` makes it: the manifest, the Wasm file, not signed, and what it asks for."""

    manifest: Manifest
    data: bytes = field(repr=False)
    interface: Interface = field(repr=False)

    @property
    def defaults(self) -> dict[int, float]:
        """Each parameter's default by its id."""
        return {param.id: param.default for param in self.manifest.params}

    def params(self, **values: float) -> dict[int, float]:
        """Return every parameter's value by its id: as given (``_`` for ``-``), or its default."""
        named = {param.name: param.id for param in self.manifest.params}
        return self.defaults | {named[name.replace("_", "-")]: value for name, value in values.items()}


def not_built(why: str) -> NoReturn:
    """Skip on somebody's desk; in CI, where everything has to be built, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{why}: AssemblyScript modules are not built")
    pytest.skip(f"{why}: AssemblyScript modules are not built")


def assemblyscript() -> Path:
    """Return a directory with AssemblyScript in its ``node_modules``, installed once per pinned release.

    It has no lock: every release of the compiler names the exact binaryen it is made for.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        not_built("node and npm are not installed")
    package = (SUPPORT / "assemblyscript" / "package.json").read_bytes()
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "stagebox-tests"
    target = base / f"assemblyscript-{hashlib.sha256(package).hexdigest()[:16]}"
    if target.exists():
        return target
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base, prefix="assemblyscript-new-") as scratch:
        place = Path(scratch) / "installed"
        place.mkdir()
        (place / "package.json").write_bytes(package)
        done = subprocess.run(
            ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=INSTALL_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            if any(word in done.stdout for word in _UNREACHABLE):
                not_built("the npm registry cannot be reached")
            raise AssertionError(f"npm install failed: {done.stdout.decode(errors='replace')}")
        try:
            place.rename(target)
        except OSError:
            # Somebody else was faster.
            assert target.exists()
    return target


def build(source: Path, scratch: Path) -> Built:
    """Build the module in directory ``source`` and check its interface, in a copy below ``scratch``."""
    manifest = parse((source / FILE_NAME).read_text("utf-8"))
    place = scratch / source.name
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("build", "node_modules"))
    if manifest.build.language is Language.ASSEMBLYSCRIPT:
        (place / "node_modules").symlink_to(assemblyscript() / "node_modules")
    return Built(manifest, *built(manifest, place))


def build_example(name: str, scratch: Path) -> Built:
    """Build one of ``deploy/modules``."""
    return build(EXAMPLES / name, scratch)
