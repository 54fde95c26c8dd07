"""``stagebox wasm sign``: put a vendor's signature on a module. Needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagebox.cli.lazy import epilog
from stagebox.cli.options import ConfigOption, JsonOption
from stagebox.modules.capabilities import Capability
from stagebox_keys import cli_passphrase
from stagebox_keys.cli_passphrase import PassphraseFileOption

if TYPE_CHECKING:
    from stagebox.modules.manifest import Manifest
    from stagebox.modules.vendor_root import VendorRoot
    from stagebox_keys.module_signing import Claim

_EXAMPLES = """
[bold]Examples[/bold]

stagebox wasm sign acme-gain.wasm --key acme/vendor.key

stagebox wasm sign acme-gain.wasm --key acme/vendor.key --days 90 --out acme-gain-1.2.0.wasm

stagebox wasm sign eq.wasm --key acme/vendor.key --name acme-eq --version 2.0.0 --capability audio
"""

_OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Where to write it; NAME.signed.wasm if not given."),
]
_DaysOption = Annotated[
    int | None,
    typer.Option(
        "--days",
        metavar="N",
        help="How long the signature is valid; 730, but no longer than the key, if not given.",
    ),
]


@epilog(_EXAMPLES)
def sign(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The module that `wasm build` made.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The vendor's key, vendor.key.")],
    out: _OutOption = None,
    days: _DaysOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The module's name, if not as in module.toml."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="VERSION", help="Its version, if not as in module.toml."),
    ] = None,
    capability: Annotated[
        list[Capability] | None,
        typer.Option("--capability", help="What it asks for, if not as in module.toml; may be given again."),
    ] = None,
    signer: Annotated[
        str | None,
        typer.Option("--signer", metavar="NAME", help="Who signs, if no vendor.toml is beside the key."),
    ] = None,
    passphrase_file: PassphraseFileOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a module with a vendor's key, after the checks that a mixer makes at its import."""
    from datetime import UTC, datetime

    from stagebox.cli.wasm.reading import coded, manifest_of, read_module, read_vendor_root
    from stagebox.files import write_atomic
    from stagebox.keyfiles import load_ed25519, signing_key
    from stagebox_keys import layout
    from stagebox_keys.module_signing import sign_module, signature_end

    now = datetime.now(UTC)
    data = read_module(file)
    beside = key.parent / layout.VENDOR_TOML
    target = out or file.with_suffix(".signed.wasm")
    _check_files(key, target, (file, key, beside))
    root = read_vendor_root(beside) if beside.exists() else None
    claim = _claim(manifest_of(file), root, name, version, capability, signer)
    expires = signature_end(now, days, root)
    secret = signing_key(load_ed25519(key, cli_passphrase.to_open(ctx, key, passphrase_file, config)))
    with coded(str(file)):
        signed = sign_module(data, claim, secret, now, days=days, root=root)
    write_atomic(target, signed, mode=0o644)
    _say(target, claim, signed, expires, root, as_json=as_json)


def _check_files(key: Path, target: Path, read: tuple[Path, ...]) -> None:
    """Demand a key, and a place for what is signed, before anybody is asked for a passphrase."""
    from stagebox.errors import InputError, KeyFileError
    from stagebox_keys import layout

    inside = key / layout.VENDOR_KEY
    if not key.is_file():
        raise KeyFileError(
            f"there is no key file {key}",
            remedy=f"give {inside}" if inside.is_file() else "make one with `stagebox keys gen-vendor`",
        )
    if key.name == layout.VENDOR_TOML:
        raise KeyFileError(
            f"{key} is what others trust the key by, and signs nothing",
            remedy=f"give {key.with_name(layout.VENDOR_KEY)}",
        )
    if target.is_dir():
        raise InputError(f"{target} is a directory", remedy="name a file with --out")
    if any(target.exists() and path.exists() and target.samefile(path) for path in read):
        raise InputError(f"--out {target} is a file that is read", remedy="choose another name")


def _say(
    target: Path, claim: Claim, signed: bytes, expires: int, root: VendorRoot | None, *, as_json: bool
) -> None:
    import hashlib

    from stagebox.cli.wasm.describing import echo_rows, rows, utc

    facts = {
        "file": str(target),
        "module": claim.name,
        "version": claim.version,
        "capabilities": [item.value for item in claim.capabilities],
        "signer": claim.signer,
        "expires": utc(expires),
        "expires_with_key": root is not None and expires == root.not_after,
        "bytes": len(signed),
        "sha256": hashlib.sha256(signed).hexdigest(),
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    if facts.pop("expires_with_key"):
        facts["expires"] = f"{facts['expires']}, when the vendor's key ends"
    echo_rows(rows(facts))


def _claim(
    manifest: Manifest | None,
    root: VendorRoot | None,
    name: str | None,
    version: str | None,
    capabilities: list[Capability] | None,
    signer: str | None,
) -> Claim:
    from stagebox.errors import ConfigError
    from stagebox_keys.module_signing import Claim

    if manifest is not None:
        name, version = name or manifest.name, version or manifest.version
        capabilities = capabilities or list(manifest.capabilities)
    if not name or not version or not capabilities:
        raise ConfigError(
            "no module.toml is beside the file, so it is not said what is signed",
            remedy="give --name, --version and --capability",
        )
    who = signer or (root.owner if root is not None else None)
    if who is None:
        raise ConfigError(
            "no vendor.toml is beside the key, so it is not said who signs", remedy="give --signer"
        )
    return Claim(who, name, version, tuple(sorted(set(capabilities))))
