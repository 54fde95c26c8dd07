"""``stagebox wasm verify``: the mixer's and the rack's own verification, on a desk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagebox.cli.options import JsonOption

if TYPE_CHECKING:
    from collections.abc import Collection

    from stagebox.cli.wasm.describing import Facts
    from stagebox.modules.capabilities import Capability
    from stagebox.modules.statement import ModuleLimits
    from stagebox.modules.verification import Countersigned, Signed

EXAMPLES = """
[bold]Examples[/bold]

stagebox wasm verify acme-gain.signed.wasm --vendor acme/vendor.toml

stagebox wasm verify acme-gain.wasm --cluster-key cluster/cluster.pub --cluster flux-prod
"""

_WHOM = "give --vendor vendor.toml, or --cluster-key cluster.pub and --cluster NAME"


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A signed or countersigned module.")],
    vendor: Annotated[
        Path | None,
        typer.Option(
            "--vendor", metavar="FILE", help="Vendor root to trust, vendor.toml: as a mixer at import."
        ),
    ] = None,
    cluster_key: Annotated[
        Path | None,
        typer.Option(
            "--cluster-key", metavar="FILE", help="cluster.pub to trust: as a rack before it runs it."
        ),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="NAME", help="The cluster it must be for.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a module as a mixer or a rack does. Exit code 77 and a reason if it may not be believed."""
    from stagebox.cli.wasm.reading import coded, read_module
    from stagebox.errors import ConfigError, ModuleError

    data = read_module(file)
    try:
        with coded(str(file)):
            match vendor, cluster_key, cluster:
                case Path(), None, None:
                    facts = _by_vendor(data, vendor)
                case None, Path(), str():
                    facts = _by_cluster(data, cluster_key, cluster)
                case None, None, None:
                    raise ConfigError("it is not said whom to trust", remedy=_WHOM)
                case Path(), _, _:
                    raise ConfigError(
                        "--vendor and --cluster-key or --cluster contradict each other", remedy=_WHOM
                    )
                case _:
                    raise ConfigError("--cluster-key and --cluster need each other", remedy=_WHOM)
    except ModuleError as error:
        if as_json:
            refused = {"file": str(file), "verified": False, "code": error.code, "error": error.message}
            typer.echo(json.dumps(refused))
        raise
    if as_json:
        typer.echo(json.dumps({"file": str(file), "verified": True, **facts}))
    else:
        _say(facts)


def _say(facts: Facts) -> None:
    from stagebox.cli.wasm.describing import echo_rows, rows

    titles = {
        "cluster": "verified: the countersignature",
        "vendor": "vouched for by the cluster: the vendor"
        if "cluster" in facts
        else "verified: the vendor's signature",
        "interface": "verified: the interface, within what was asked for and granted",
    }
    for name, part in facts.items():
        typer.echo(titles[name])
        echo_rows([(f"    {row}", text) for row, text in rows(part)])


def _by_vendor(data: bytes, root: Path) -> Facts:
    from stagebox.cli.wasm.build import most_allowed
    from stagebox.cli.wasm.describing import statement_facts
    from stagebox.cli.wasm.reading import read_vendor_root
    from stagebox.modules.vendor_root import VendorRoots
    from stagebox.modules.verification import verify_vendor

    trusted = read_vendor_root(root)
    signed = verify_vendor(data, VendorRoots([trusted]), now_ns=time.time_ns())
    statement = signed.statement
    return {
        "vendor": {"owner": trusted.owner, **statement_facts(statement), "digest": signed.digest.hex()},
        "interface": _interface(signed, statement.capabilities, most_allowed()),
    }


def _by_cluster(data: bytes, key: Path, cluster: str) -> Facts:
    from stagebox.cli.wasm.describing import cluster_facts, statement_facts
    from stagebox.keyfiles import load_public
    from stagebox.modules.verification import verify_countersigned

    found = verify_countersigned(
        data, cluster=cluster, cluster_public=load_public(key), now_ns=time.time_ns()
    )
    granted = found.cluster
    return {
        "cluster": {**cluster_facts(granted), "digest": found.digest.hex()},
        "vendor": statement_facts(found.vendor),
        "interface": _interface(found, granted.granted, granted.limits),
    }


def _interface(found: Signed | Countersigned, granted: Collection[Capability], limits: ModuleLimits) -> Facts:
    """Check what the signatures do not say: that the module needs no more than is granted."""
    from stagebox.cli.wasm.describing import interface_facts, param_facts
    from stagebox.modules.interface import check_interface, read_interface

    interface = read_interface(found.data, found.sections)
    check_interface(interface, granted, limits, found.params)
    return {**interface_facts(interface), "params": [param_facts(param) for param in found.params]}
