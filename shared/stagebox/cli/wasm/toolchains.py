"""The compilers that turn a module's sources into Wasm: ``zig cc``, ``asc`` and wasmtime's reader of WAT.

Each is a program of the author's own, found where its package manager puts it; nothing is fetched. What a compiler has
to say goes to standard error as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

from stagebox.cli.wasm.limits import LIMITS
from stagebox.errors import ConfigError, InputError
from stagebox.modules.manifest import Build, Language
from stagebox.modules.statement import PAGE_BYTES

ASSEMBLYSCRIPT = "0.28.20"
"""The release of AssemblyScript that a new module asks for, and that the tests build with."""


def compile_module(build: Build, directory: Path) -> bytes:
    """Return the Wasm file that the sources in ``directory`` make.

    Raises:
        ConfigError: the compiler is not installed.
        InputError: a source is missing, or the compiler refuses it.
    """
    for source in build.sources:
        if not (directory / source).is_file():
            raise InputError(
                f"there is no source {directory / source}", remedy="correct module.toml [build] sources"
            )
    if build.language is Language.WAT:
        return _wat(directory / build.sources[0])
    with (
        tempfile.TemporaryDirectory(prefix="stagebox-wasm-") as scratch,
        as_file(files("stagebox.modules") / "sdk") as sdk,
    ):
        output = Path(scratch) / "module.wasm"
        make = _zig if build.language is Language.C else _asc
        _run(make(build, directory, sdk, output), directory)
        try:
            return output.read_bytes()
        except OSError:
            raise InputError(f"{build.language}: the compiler ended well, but made no file") from None


def _zig(build: Build, directory: Path, sdk: Path, output: Path) -> list[str]:
    if find_spec("ziglang") is not None:
        program = [sys.executable, "-m", "ziglang"]
    else:
        found = shutil.which("zig")
        if found is None:
            raise ConfigError("zig is not installed, which compiles C", remedy="pip install ziglang")
        program = [found]
    return [
        *program,
        "cc",
        "-target",
        "wasm32-freestanding",
        "-std=c17",
        "-O2",
        "-Wall",
        # No libc; the compiler's own runtime has memcpy, expf and their like.
        "-nostdlib",
        "-lcompiler_rt",
        "-Wl,--no-entry",
        "-Wl,--strip-all",
        # zig puts the stack below the data: to run over it is a trap, not damage.
        f"-Wl,-z,stack-size={min(LIMITS.stack_bytes, build.memory_pages * PAGE_BYTES // 2)}",
        f"-Wl,--max-memory={build.memory_pages * PAGE_BYTES}",
        *build.flags,
        # A header beside the source comes first, as the author's quotes say.
        "-I",
        str(sdk),
        "-o",
        str(output),
        *build.sources,
    ]


def _asc(build: Build, directory: Path, sdk: Path, output: Path) -> list[str]:
    library = (directory / "lib").absolute()
    return [
        _find_asc(directory),
        build.sources[0],
        "--lib",
        str(library if (library / "stagebox.ts").is_file() else sdk),
        "-O3",
        "--runtime",
        "stub",
        # No host grants env.abort: it becomes a trap.
        "--use",
        "abort=",
        "--exportStart",
        "_initialize",
        "--maximumMemory",
        str(build.memory_pages),
        *build.flags,
        "--outFile",
        str(output),
    ]


def _find_asc(directory: Path) -> str:
    for place in (directory.absolute(), *directory.absolute().parents):
        program = place / "node_modules" / ".bin" / "asc"
        if program.is_file():
            if shutil.which("node") is None:
                raise ConfigError(
                    "node is not installed, which runs asc", remedy="install Node.js 20 or later"
                )
            return str(program)
    found = shutil.which("asc")
    if found is None:
        raise ConfigError(
            "asc is not installed, which compiles AssemblyScript",
            remedy=f"run npm install in {directory}, or npm install --save-dev assemblyscript@{ASSEMBLYSCRIPT}",
        )
    return found


def _run(command: Sequence[str], directory: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMITS.compile_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{command[0]} did not end within {LIMITS.compile_s:g} s") from None
    except OSError as error:
        raise ConfigError(f"cannot start {command[0]}: {error.strerror}") from None
    sys.stderr.write(done.stdout.decode("utf-8", "replace"))
    if done.returncode != 0:
        raise InputError(f"the compiler refused the source (exit code {done.returncode})", remedy="see above")


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Our own OpenSSL configuration is not for other programs."""
    return {name: value for name, value in ours.items() if name != "OPENSSL_CONF"}


def _wat(source: Path) -> bytes:
    try:
        from wasmtime import WasmtimeError, wat2wasm
    except ModuleNotFoundError:
        raise ConfigError(
            "wasmtime is not installed, which reads WAT", remedy="pip install wasmtime"
        ) from None
    if source.stat().st_size > LIMITS.max_source_bytes:
        raise InputError(f"{source} is larger than {LIMITS.max_source_bytes} bytes")
    try:
        return bytes(wat2wasm(source.read_text("utf-8")))
    except UnicodeDecodeError:
        raise InputError(f"{source} is not UTF-8 text") from None
    except WasmtimeError as error:
        sys.stderr.write(f"{error}\n")
        raise InputError(f"{source} is not WebAssembly text", remedy="see above") from None
