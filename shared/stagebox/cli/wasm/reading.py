"""Module files and their manifests, read from disk, and refusals with their code in the text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stagebox.cli.wasm.limits import LIMITS
from stagebox.errors import InputError, ModuleError
from stagebox.modules import manifest
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.manifest import FILE_NAME, Manifest
from stagebox.modules.vendor_root import VendorRoot
from stagebox.modules.vendor_root import parse as parse_root

_WANTED = {
    "module": "name a .wasm file: `stagebox wasm build` makes one",
    "manifest": f"write a {FILE_NAME} as `stagebox wasm new` does",
    "vendor root": "name the vendor.toml that `stagebox keys gen-vendor` made",
}
"""What to do about a file that is not of the kind that is read."""


def read_module(path: Path) -> bytes:
    """Return the bytes of a module file, whatever they are.

    Raises:
        InputError: it cannot be read, or is larger than a module may be.
    """
    return _read(path, FORMAT.max_module_bytes, "module")


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest in ``directory``.

    Raises:
        InputError: there is none, or it is wrong.
    """
    if directory.is_file():
        raise InputError(
            f"{directory} is a file, not the directory of a {FILE_NAME}", remedy=f"name {directory.parent}"
        )
    path = directory / FILE_NAME
    if not path.exists():
        raise InputError(f"there is no {path}", remedy="`stagebox wasm new` writes one beside its starter")
    return manifest.parse(_text(path, LIMITS.max_manifest_bytes, "manifest"), str(path))


def manifest_of(module: Path) -> Manifest | None:
    """Return the manifest of a module file: the one beside it, or the one above that builds it; None without.

    Raises:
        InputError: there is one, and it is wrong.
    """
    here, above = module.absolute().parent, module.absolute().parent.parent
    if (here / FILE_NAME).exists():
        return read_manifest(module.parent)
    if (above / FILE_NAME).exists():
        found = read_manifest(above)
        return found if above / found.build.output == module.absolute() else None
    return None


def read_vendor_root(path: Path) -> VendorRoot:
    """Return the vendor root in ``path``.

    Raises:
        InputError: it cannot be read, or is none.
    """
    text = _text(path, FORMAT.max_vendor_root_bytes, "vendor root")
    try:
        return parse_root(text, str(path))
    except InputError as error:
        raise InputError(error.message, remedy=error.remedy or _WANTED["vendor root"]) from None


@contextmanager
def coded(what: str) -> Iterator[None]:
    """Name the file and the code in a refusal, for whoever reads the text."""
    try:
        yield
    except ModuleError as error:
        raise ModuleError(
            error.code, f"{what}: {error.message} (code {error.code})", remedy=error.remedy
        ) from None


def _text(path: Path, most: int, what: str) -> str:
    try:
        return _read(path, most, what).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"the {what} {path} is not UTF-8 text", remedy=_WANTED[what]) from None


def _read(path: Path, most: int, what: str) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror}", remedy=_WANTED[what]) from None
    if len(data) > most:
        raise InputError(f"the {what} {path} is larger than {most} bytes", remedy=_WANTED[what])
    return data
