"""``stagebox wasm build``: a module from its sources, by ``module.toml``, judged as a mixer will judge it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagebox.cli.options import JsonOption

if TYPE_CHECKING:
    from stagebox.modules.interface import Interface
    from stagebox.modules.manifest import Manifest
    from stagebox.modules.statement import ModuleLimits

EXAMPLES = """
[bold]Examples[/bold]

stagebox wasm build

stagebox wasm build acme-gain --json
"""


def build(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where module.toml is; here if not given.")
    ] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Compile a module, add its parameters and check that its interface is what it asks for."""
    from stagebox.cli.wasm.describing import echo_rows, interface_facts, param_facts, rows
    from stagebox.cli.wasm.reading import coded, read_manifest
    from stagebox.errors import StorageError

    manifest = read_manifest(directory)
    output = directory / manifest.build.output
    with coded(str(output)):
        data, interface = built(manifest, directory)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(data)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
    facts = {
        "module": manifest.name,
        "version": manifest.version,
        "file": str(output),
        "bytes": len(data),
        "capabilities": [capability.value for capability in manifest.capabilities],
        **interface_facts(interface),
        "params": [param_facts(param) for param in manifest.params],
    }
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        echo_rows(rows(facts))


def built(manifest: Manifest, directory: Path) -> tuple[bytes, Interface]:
    """Return the module that the sources in ``directory`` make, and its interface.

    Raises:
        ConfigError: the compiler is not installed.
        InputError: it refuses the source.
        ModuleError: what it makes is no module for this ABI, or needs what the manifest does not ask for.
    """
    from stagebox.cli.wasm.toolchains import compile_module
    from stagebox.modules.interface import check_interface, read_interface
    from stagebox.modules.params import encode_params
    from stagebox.modules.walker import walk

    data = compile_module(manifest.build, directory)
    if manifest.params:
        data += encode_params(manifest.params)
    sections = walk(data)
    interface = read_interface(data, sections)
    check_interface(interface, manifest.capabilities, most_allowed(), manifest.params)
    return data, interface


def most_allowed() -> ModuleLimits:
    """Return the limits that no cluster grants more than."""
    from stagebox.modules.limits import LIMITS
    from stagebox.modules.statement import ModuleLimits

    return ModuleLimits(
        fuel_per_block=LIMITS.fuel_per_block,
        memory_bytes=LIMITS.memory_bytes,
        table_elements=LIMITS.table_elements,
        epoch_ms=LIMITS.epoch_ms,
        records_per_s=LIMITS.records_per_s,
        record_bytes=LIMITS.record_bytes,
    )
