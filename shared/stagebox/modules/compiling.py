"""Compiles a module in a process that lives for nothing else, with a bound on its time and memory.

A compiler fed by a stranger may take forever, use up memory, or fall to a bug; here it can only fail. What it is given
is sealed memory with exactly the bytes of the caller, and text is refused: the engine would take the text format
for a module too. What it returns is native code for this machine and this release of the engine: it is run only by
who asked for it, in this very run, and never stored.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from stagebox.errors import ModuleError
from stagebox.logs import printable
from stagebox.modules.compiler import PREAMBLE, REFUSED
from stagebox.modules.confinement import environment
from stagebox.modules.limits import LIMITS, ModuleFormatLimits
from stagebox.modules.sealed import read_whole, seal, sealed


def compile_module(data: bytes, limits: ModuleFormatLimits = LIMITS, *, portable: bool = False) -> bytes:
    """Return the native code of a verified module, as :func:`stagebox.modules.engine.make_engine` loads it.

    Who only wants to know whether it compiles says ``portable``: then it is code for an interpreter, and is made
    also where a service may have no executable memory.

    Blocks for as long as compiling takes, some ms and up to ``compile_s``: not for an event loop.

    Raises:
        ModuleError: ``does_not_compile``. OSError: there is no memory, descriptor or process left to try it with.
    """
    data = bytes(data)
    if not data.startswith(PREAMBLE):
        raise _refused("it does not begin as a core module of version 1 does")
    if len(data) > limits.max_module_bytes:
        raise _refused(f"it has {len(data)} bytes")
    source = sealed("stagebox-module", data)
    try:
        target = os.memfd_create("stagebox-native", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _run(source, target, limits, portable=portable)
            seal(target)
            if os.fstat(target).st_size > limits.native_bytes:
                raise _refused("its native code is too large")
            return read_whole(target, limits.native_bytes)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _run(source: int, target: int, limits: ModuleFormatLimits, *, portable: bool) -> None:
    command = [sys.executable, "-I", "-m", "stagebox.modules.compiler"]
    process = subprocess.Popen(
        [*command, str(os.getpid()), str(source), str(target), "portable" if portable else "native"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment(),
        pass_fds=(source, target),
        start_new_session=True,
    )
    try:
        code = process.wait(limits.compile_s)
    except subprocess.TimeoutExpired:
        raise _refused(f"compiling it took more than {limits.compile_s:g} s") from None
    finally:
        process.kill()
        process.wait()
    if code == REFUSED:
        words = os.pread(target, 4 * limits.compile_reason_chars, 0).decode("utf-8", "replace")
        raise _refused(printable(" ".join(words.split()))[: limits.compile_reason_chars])
    if code == -signal.SIGXCPU:
        raise _refused(f"compiling it took more than {limits.compile_cpu_s} s")
    if code == -signal.SIGABRT:
        raise _refused(f"compiling it may well take more than {limits.compile_data_bytes >> 20} MiB")
    if code:
        raise _refused(f"the compiler ended with {code}")


def _refused(reason: str) -> ModuleError:
    return ModuleError("does_not_compile", f"the module does not compile: {reason}")
